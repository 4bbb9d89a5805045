//! Hosts.

use super::{Session, person};
use crate::args::HostVerb;
use crate::output::Format;
use crate::{Failure, view};
use holm_proto::v1::host_service_client::HostServiceClient;
use holm_proto::v1::invite_request::Subject;
use holm_proto::v1::{GetHostRequest, Host, InviteRequest, ListHostsRequest, ReleaseDeviceRequest};
use serde_json::json;
use tonic::transport::Channel;

pub(super) async fn run(session: &Session, verb: HostVerb) -> Result<(), Failure> {
    match verb {
        HostVerb::List => {
            let mut client = session.hosts().await?;
            let all = session.ask(client.list_hosts(ListHostsRequest {})).await?.hosts;
            let json = all.iter().map(view::host_json).collect::<Vec<_>>();
            session.output.list(&view::hosts(&all, &session.clock), &json!(json))
        }
        HostVerb::Show { name } => {
            let mut client = session.hosts().await?;
            if name.is_empty() {
                return only(session, client).await;
            }
            show(session, &get(session, &mut client, &name).await?)
        }
        HostVerb::Invite { name } => {
            let mut client = session.people().await?;
            let request = InviteRequest { subject: Some(Subject::Host(name)), roles: Vec::new() };
            let invitation = session.ask(client.invite(request)).await?;
            person::invited(session, &invitation, " --dir /etc/holm/agent")
        }
        HostVerb::ReleaseDevice { host, address, reason } => {
            let mut client = session.hosts().await?;
            let request = ReleaseDeviceRequest { host: host.clone(), address: address.clone(), reason };
            let now = session.ask(client.release_device(request)).await?;
            let sentence =
                format!("{address} of {host} leaves quarantine, and is cleaned before anybody gets it");
            session.output.done(&sentence, &view::host_json(&now))?;
            session.output.next(&format!("holm host show {host}"))
        }
    }
}

/// The only host there is.
async fn only(session: &Session, mut client: HostServiceClient<Channel>) -> Result<(), Failure> {
    let all = session.ask(client.list_hosts(ListHostsRequest {})).await?.hosts;
    match all.as_slice() {
        [host] => show(session, host),
        [] => {
            Err(Failure::new("there is no host that you may see").hint("an operator: holm host invite NAME"))
        }
        [_, ..] => {
            Err(Failure::usage(format!("there are {} hosts: say which", all.len())).hint("holm host list"))
        }
    }
}

/// A host by its name.
pub(super) async fn get(
    session: &Session,
    client: &mut HostServiceClient<Channel>,
    name: &str,
) -> Result<Host, Failure> {
    session.ask(client.get_host(GetHostRequest { name: name.to_owned() })).await
}

fn show(session: &Session, host: &Host) -> Result<(), Failure> {
    let (sheet, table) = view::host(host, &session.clock);
    match session.output.format {
        Format::Table => {
            let output = &session.output;
            let devices = table.text(output.colour, output.width);
            crate::output::put(&format!("{}\n{devices}", sheet.text(output.colour)))
        }
        Format::Json | Format::Csv => session.output.list(&table, &view::host_json(host)),
    }
}
