//! Once a day: entries of the log go whose time is over, by the days that the pack in force says of their levels.

use crate::app::App;
use crate::audit::SEGMENT;
use crate::domain::State;
use crate::domain::retention::{GRACE, Terms, may_begin};
use crate::ledger::chain;
use crate::ledger::retain::Keeper;
use crate::reconcile::{self, DOUBT};
use crate::search::Query;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// And where something is begun that is not through: the directory and the store follow within a second.
const AGAIN: Duration = Duration::from_secs(5);

/// Until holmd ends.
pub async fn run(app: Arc<App>) {
    let mut keeper = Keeper::new(SEGMENT);
    loop {
        let worker = Arc::clone(&app);
        let looked = tokio::task::spawn_blocking(move || {
            let done = look(&worker, &mut keeper);
            (keeper, done)
        });
        let pause = match looked.await {
            Ok((kept, done)) => {
                keeper = kept;
                match done {
                    Ok(true) => PERIOD,
                    Ok(false) => AGAIN,
                    Err(why) => {
                        tracing::error!("no entry of the log goes: {why}");
                        PERIOD
                    }
                }
            }
            Err(failure) => {
                tracing::error!("no entry of the log goes: {failure}");
                keeper = Keeper::new(SEGMENT);
                PERIOD
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The clock was found wrong while a pack might have come to its time by it alone; `None`: the index is not that far yet.
fn doubted(app: &App) -> Option<bool> {
    let since = app.ledger.now().checked_sub(GRACE).ok();
    let doubts = Query::default().action(DOUBT).and_then(|query| query.between(since, None)).ok()?;
    // By what is kept, as the index is: in the directory there may be more.
    let page = app.index.search(&app.ledger, &doubts, app.ledger.size(), 1);
    let page = page.inspect_err(|why| tracing::debug!("it is not looked what goes: {}", chain(why))).ok()?;
    Some(!page.found.is_empty())
}

/// Whether all was done that is to be done now.
fn look(app: &App, keeper: &mut Keeper) -> Result<bool, String> {
    // What goes by a clock that is wrong does not come back.
    let Some(doubted) = doubted(app) else { return Ok(false) };
    let steady = reconcile::steady(app).map_err(|refusal| refusal.to_string())? && !doubted;
    let terms = |state: &State| {
        (steady && may_begin(state, app.ledger.now())).then(|| Terms::of(&app.rules.of(state), state))
    };
    keeper.look(&app.ledger, terms).map_err(|e| chain(&e))
}
