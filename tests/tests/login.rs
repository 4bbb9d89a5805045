//! `holm login` against a real OpenID provider: who proves a second factor there, and what that opens.

use holm_tests::oidc::{Provider, SECRET};
use holm_tests::simulated::Simulated;
use holm_tests::site::{Daemon, OFFICERS, OPERATOR, Site};
use holm_tests::{Outcome, demand};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

/// She types `holm login`, and does at the provider's page what it says.
fn login(site: &Site, provider: &Provider, who: &str, yes: bool) -> Outcome<(bool, String)> {
    let mut command = site.command(who, &["login"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stderr.take().ok_or("it says nothing")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let told = match words[..] {
        [.., "open", page, "and", "enter", code] => provider.enter(page, code, yes),
        _ => Err(format!("`holm login` says `{line}`").into()),
    };
    if told.is_err() {
        child.kill()?;
    }
    let mut all = line.clone();
    said.read_to_string(&mut all)?;
    child.stdout.take().ok_or("it says nothing")?.read_to_string(&mut all)?;
    let status = child.wait()?;
    told.map_err(|error| format!("{error}\n{all}"))?;
    Ok((status.success(), all))
}

#[test]
fn what_a_level_demands_a_second_factor_for_is_done_after_one_is_proven_at_the_sites_provider() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    let mut provider = Provider::start()?;
    site.invite(OPERATOR, "ada", Some("lead"))?;
    site.project("ada", "heart-study", "3", "strokes")?;
    site.ok("ada", &["slice", "request", "heart-study/main", "--gpus", "1"])?;
    let said = site.refused("ada", &["login"])?;
    demand(said.contains("knows no OpenID provider"), said)?;

    // The site's pack demands one at level 3, and a holmd that knows no provider does not begin with it.
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/packs/aau-2018");
    let (packs, ca, secret) = (packs.display(), site.root().join("idp.pem"), site.root().join("secret"));
    std::fs::copy(provider.ca(), &ca)?;
    std::fs::write(&secret, SECRET)?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
    site.kill(Daemon::Holmd)?;
    site.configure(&format!(
        "cp -r {packs} pack
         sed -i 's/^second_factor_hours = 0/second_factor_hours = 12/' pack/pack.toml
         sed -i 's|^pack = .*|pack = \"'$PWD'/pack\"|' holmd.toml"
    ))?;
    let holmd = site.binaries().join("holmd");
    let refused = site.ground().attempt(&format!(
        "cd {}/holmd && {} check --config holmd.toml",
        site.root().display(),
        holmd.display()
    ))?;
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    demand(said.contains("names no OpenID provider in [login]"), said)?;
    site.configure(&format!(
        "printf '\\n[login]\\nissuer = \"%s\"\\nclient_id = \"holm\"\\nclient_secret = {{ file = \"%s\" }}\\nca_file = \"%s\"\\n' \
         {} {} {} >>holmd.toml",
        provider.issuer,
        secret.display(),
        ca.display()
    ))?;
    site.start(Daemon::Holmd)?;

    let approve = ["slice", "approve", "heart-study/main"];
    let said = site.refused(OFFICERS[0], &approve)?;
    demand(
        said.contains("demands a second factor in the last 12 hours") && said.contains("holm login"),
        said,
    )?;

    // At the provider with a password alone; not at all; with more.
    provider.is("officer-1", "pwd")?;
    let (well, said) = login(&site, &provider, OFFICERS[0], true)?;
    demand(well && said.contains("WITHOUT a second factor"), said)?;
    let said = site.refused(OFFICERS[0], &approve)?;
    demand(said.contains("your login was without one"), said)?;
    let (well, said) = login(&site, &provider, OFFICERS[0], false)?;
    demand(!well && said.contains("it was refused at the provider"), said)?;
    provider.is("officer-1", "pwd otp mfa")?;
    let (well, said) = login(&site, &provider, OFFICERS[0], true)?;
    demand(well && said.contains("is logged in with a second factor (amr pwd otp mfa)"), said)?;
    site.ok(OFFICERS[0], &approve)?;
    let said = site.ok(OFFICERS[0], &["whoami"])?;
    demand(said.contains("with a second factor"), said)?;

    // One account is one person's, and hers stays the same.
    let (well, said) = login(&site, &provider, OFFICERS[1], true)?;
    demand(!well && said.contains("somebody else's here"), said)?;
    provider.is("officer-2", "mfa")?;
    let (well, said) = login(&site, &provider, OFFICERS[0], true)?;
    demand(!well && said.contains("another account"), said)?;
    let (well, said) = login(&site, &provider, OFFICERS[1], true)?;
    demand(well, said)?;
    site.ok(OFFICERS[1], &approve)?;
    site.ok("ada", &["wait", "heart-study/main", "ready", "--timeout", "1m"])?;
    site.ok("ada", &["slice", "stop", "heart-study/main"])?;
    site.ok("ada", &["wait", "heart-study/main", "stopped", "--timeout", "1m"])?;
    let said = site.refused("ada", &["slice", "start", "heart-study/main"])?;
    demand(said.contains("you have not logged in"), said)?;

    // Who it was at the provider is in no record.
    let log = site.ok(OFFICERS[0], &["audit", "log", "--action", "login", "--format", "json"])?;
    demand(log.contains("second_factor") && log.contains("refused") && !log.contains("officer-1"), log)?;

    // A provider that is gone logs nobody in; what was proven stays.
    drop(provider);
    let said = site.refused("ada", &["login"])?;
    demand(said.contains("cannot be reached"), said)?;
    site.ok(OFFICERS[0], &["whoami"]).map(drop)
}
