//! What each command does.

mod asking;
mod audit;
mod backup;
mod certificate;
mod copy;
mod disks;
mod doctor;
mod enrol;
mod host;
mod image;
mod job;
mod keys;
mod lists;
mod lock;
mod person;
mod pin;
mod policy;
mod project;
mod queue;
mod recordings;
mod registration;
mod slice;
mod ssh;
mod ssh_config;
mod tunnel;
mod wait;
mod watch;

use crate::args::{Cli, Command, InProject, ProfileVerb, ReportVerb};
use crate::dial::{self, ANSWER, Calls, Keyed};
use crate::output::{Cell, Output, Table, Tone};
use crate::profile::{Place, Profiles};
use crate::progress::patiently;
use crate::text::{Clock, parse_when, span};
use crate::{Failure, tls, view};
use clap::CommandFactory;
use holm_control::once::AGAIN;
use holm_proto::MAX_MESSAGE_BYTES;
use holm_proto::v1::SliceRef;
use holm_proto::v1::audit_service_client::AuditServiceClient;
use holm_proto::v1::host_service_client::HostServiceClient;
use holm_proto::v1::image_service_client::ImageServiceClient;
use holm_proto::v1::incident_service_client::IncidentServiceClient;
use holm_proto::v1::key_service_client::KeyServiceClient;
use holm_proto::v1::lock_service_client::LockServiceClient;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::policy_service_client::PolicyServiceClient;
use holm_proto::v1::project_service_client::ProjectServiceClient;
use holm_proto::v1::review_service_client::ReviewServiceClient;
use holm_proto::v1::slice_service_client::SliceServiceClient;
use jiff::Timestamp;
use serde_json::json;
use std::future::Future;
use tonic::{Response, Status};

/// Port of holmd's main listener, where none is said.
const PORT: u16 = 7443;
/// Port of its enrolment listener.
const ENROL_PORT: u16 = 7444;

/// Runs a command line; its exit code.
pub async fn main(cli: Cli) -> u8 {
    let output = Output::new(cli.global.format, cli.global.quiet);
    match run(cli, &output).await {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit.code()
        }
    }
}

async fn run(cli: Cli, output: &Output) -> Result<u8, Failure> {
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "holm", &mut script);
            return crate::output::put(&String::from_utf8_lossy(&script)).map(|()| 0);
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            return output.answer(&format!("holm {version}"), &json!({ "version": version })).map(|()| 0);
        }
        Command::Certificate(verb) => {
            return certificate::run(&verb, &cli.global.profile, output, &Clock::system()).map(|()| 0);
        }
        Command::Policy(ref verb) => {
            if let Some(done) = policy::offline(verb, output) {
                return done.map(|()| 0);
            }
        }
        _ => {}
    }
    let profiles = Profiles::find()?;
    let place = profiles.place(&cli.global.profile)?;
    let keyed = Keyed { key: cli.global.idempotency_key, if_match: cli.global.if_match };
    let session = Session { output: output.clone(), clock: Clock::system(), profiles, place, keyed };
    match cli.command {
        Command::Enrol(args) => enrol::run(&session, args).await.map(|()| 0),
        Command::Renew => enrol::renew(&session).await.map(|()| 0),
        Command::Login => person::login(&session).await.map(|()| 0),
        Command::Whoami => person::whoami(&session).await.map(|()| 0),
        Command::Profile(ProfileVerb::List) => profile_list(&session).map(|()| 0),
        Command::Person(verb) => person::run(&session, verb).await.map(|()| 0),
        Command::Host(verb) => host::run(&session, verb).await.map(|()| 0),
        Command::Keys(verb) => keys::run(&session, verb).await.map(|()| 0),
        Command::Lock(verb) => lock::run(&session, verb).await.map(|()| 0),
        Command::Policy(verb) => policy::run(&session, verb).await.map(|()| 0),
        Command::Project(verb) => project::run(&session, verb).await.map(|()| 0),
        Command::Slice(verb) => slice::run(&session, verb).await,
        Command::Backup(verb) => backup::run(&session, verb).await.map(|()| 0),
        Command::Volume(verb) => backup::volume(&session, verb).await,
        Command::Image(verb) => image::run(&session, verb).await.map(|()| 0),
        Command::Report(ReportVerb::Usage(args)) => queue::report(&session, &args).await.map(|()| 0),
        Command::Queue => slice::queue(&session).await.map(|()| 0),
        Command::Ssh(args) => ssh::run(&session, args).await,
        Command::Job(verb) => job::run(&session, verb).await,
        Command::Wait(args) => wait::run(&session, args).await.map(|()| 0),
        Command::Audit(verb) => audit::run(&session, verb).await.map(|()| 0),
        Command::Doctor => doctor::run(&session).await,
        // Done above, without a profile.
        Command::Certificate(_) | Command::Completion { .. } | Command::Version => Ok(0),
    }
}

/// One command line: whose it is, and where its answers go.
#[derive(Clone)]
struct Session {
    output: Output,
    clock: Clock,
    profiles: Profiles,
    place: Place,
    keyed: Keyed,
}

impl Session {
    /// A moment to come, as it is typed.
    fn when(&self, text: &str) -> Result<prost_types::Timestamp, Failure> {
        let at = parse_when(text, &self.clock).map_err(Failure::usage)?;
        self.same_again(text)?;
        Ok(prost_types::Timestamp { seconds: at.as_second(), nanos: 0 })
    }

    /// Under a key the same command is to say the same.
    fn same_again(&self, time: &str) -> Result<(), Failure> {
        if self.keyed.key.is_some() && span(time).is_some() {
            let text = format!(
                "with a key, write a date for `{time}`: from now on is another time when it is sent again"
            );
            return Err(Failure::usage(text));
        }
        Ok(())
    }

    /// A connection to this profile's holmd.
    async fn connect(&self) -> Result<Calls, Failure> {
        let profile = self.place.profile()?;
        let (from, until) = self.place.validity()?;
        if until <= self.clock.now {
            let when = self.clock.relative(until);
            return Err(Failure::new(format!(
                "your certificate ended {when}: ask an officer for a new code"
            ))
            .hint("with it: holm enrol CODE"));
        }
        if is_old(from, until, self.clock.now) {
            let when = self.clock.relative(until);
            self.output.remark(&format!("your certificate ends {when}; for a new one: holm renew"));
        }
        let config = tls::mutual(&self.place.identity()?)?;
        let connected = dial::connect(&profile.server, PORT, config);
        let channel =
            patiently(&self.output, &format!("connecting to {}", profile.server), connected).await?;
        Ok(Calls::new(channel, self.keyed.clone()))
    }

    /// The same without signs of life of its own, for who gives some already.
    fn silent(&self) -> Self {
        Self { output: Output { quiet: true, ..self.output.clone() }, ..self.clone() }
    }

    /// One question, in the time that an answer may take.
    async fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        let limited = tokio::time::timeout(ANSWER, call);
        match patiently(&self.output, "waiting for holmd", limited).await {
            Ok(answer) => {
                let answer = answer?;
                if let Some(first) = answer.metadata().get(AGAIN).and_then(|id| id.to_str().ok()) {
                    self.output.must_see(&format!(
                        "this was done before, by the call {first}: nothing was done now"
                    ));
                }
                Ok(answer.into_inner())
            }
            Err(_) => {
                let text = format!("holmd did not answer in {} s", ANSWER.as_secs());
                Err(Failure::unreachable(text).hint("holm doctor"))
            }
        }
    }

    async fn people(&self) -> Result<PersonServiceClient<Calls>, Failure> {
        Ok(PersonServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn projects(&self) -> Result<ProjectServiceClient<Calls>, Failure> {
        Ok(ProjectServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn slices(&self) -> Result<SliceServiceClient<Calls>, Failure> {
        Ok(SliceServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn hosts(&self) -> Result<HostServiceClient<Calls>, Failure> {
        Ok(HostServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn keys(&self) -> Result<KeyServiceClient<Calls>, Failure> {
        Ok(KeyServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn locks(&self) -> Result<LockServiceClient<Calls>, Failure> {
        Ok(LockServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn images(&self) -> Result<ImageServiceClient<Calls>, Failure> {
        Ok(ImageServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn incidents(&self) -> Result<IncidentServiceClient<Calls>, Failure> {
        Ok(IncidentServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn reviews(&self) -> Result<ReviewServiceClient<Calls>, Failure> {
        Ok(ReviewServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn policies(&self) -> Result<PolicyServiceClient<Calls>, Failure> {
        Ok(PolicyServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn log(&self) -> Result<AuditServiceClient<Calls>, Failure> {
        Ok(AuditServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// PROJECT/NAME, or NAME in the current project. What is a name, holmd says.
    fn slice(&self, text: &str, project: &InProject) -> Result<SliceRef, Failure> {
        if let Some((project, name)) = text.split_once('/') {
            return Ok(SliceRef { project: project.to_owned(), name: name.to_owned() });
        }
        let project = match project.project.clone().filter(|p| !p.is_empty()) {
            Some(project) => Some(project),
            None => self.place.memory()?.project,
        };
        let project = project.ok_or_else(|| {
            Failure::usage(format!("`{text}` is in no project: there is no current one"))
                .hint(format!("PROJECT/{text}, or first: holm project switch PROJECT"))
        })?;
        Ok(SliceRef { project, name: text.to_owned() })
    }
}

/// Less than a third of a certificate's life is left.
fn is_old(from: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    until.duration_since(now) < until.duration_since(from) / 3
}

fn profile_list(session: &Session) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for place in session.profiles.all()? {
        let (profile, validity) = (place.profile()?, place.validity().ok());
        let name = place.name.clone().unwrap_or_default();
        let current = place.name == session.place.name;
        let until = match validity {
            Some((_, until)) if until <= session.clock.now => {
                Cell::both(format!("ended {}", session.clock.relative(until)), until.to_string())
                    .tone(Tone::Bad)
            }
            Some((_, until)) => Cell::both(session.clock.relative(until), until.to_string()),
            None => Cell::new("no certificate").tone(Tone::Bad),
        };
        all.push(json!({
            "name": name,
            "current": current,
            "identity": profile.identity,
            "server": profile.server,
            "until": validity.map(|(_, until)| until.to_string()),
        }));
        rows.push(vec![
            Cell::both(if current { format!("{name} *") } else { name.clone() }, name),
            Cell::both(view::short_identity(&profile.identity), &profile.identity),
            profile.server.into(),
            until,
        ]);
    }
    let columns = vec!["profile", "identity", "server", "certificate ends"];
    let table =
        Table { columns, rows, empty: "no profiles: begin with `holm enrol CODE --server HOST:PORT`" };
    session.output.list(&table, &json!(all))
}
