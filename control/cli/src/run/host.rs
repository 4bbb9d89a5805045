//! Hosts.

use super::{Session, person};
use crate::args::HostVerb;
use crate::dial::Calls;
use crate::output::Format;
use crate::text::Clock;
use crate::{Failure, view};
use holm_proto::v1::host_service_client::HostServiceClient;
use holm_proto::v1::invite_request::Subject;
use holm_proto::v1::revoke_request::Subject as Revocable;
use holm_proto::v1::{
    GetHostRequest, Host, InviteRequest, ListHostsRequest, ReleaseDeviceRequest, RevokeRequest,
    SetMaintenanceRequest,
};
use serde_json::{Value, json};
use std::path::Path;

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
            let host = if name.is_empty() {
                only(session, client).await?
            } else {
                get(session, &mut client, &name).await?
            };
            show(session, &host)
        }
        HostVerb::Topology { name, svg } => {
            let mut client = session.hosts().await?;
            let host = if name.is_empty() {
                only(session, client).await?
            } else {
                get(session, &mut client, &name).await?
            };
            topology(session, &host, svg.as_deref())
        }
        HostVerb::Checks { name } => {
            let mut client = session.hosts().await?;
            let host = if name.is_empty() {
                only(session, client).await?
            } else {
                get(session, &mut client, &name).await?
            };
            let json = host.commissioning.as_ref().map(view::commissioning_json);
            session.output.list(&view::checks(&host), &json!(json))
        }
        HostVerb::Invite { name } => {
            let mut client = session.people().await?;
            let request = InviteRequest { subject: Some(Subject::Host(name)), roles: Vec::new() };
            let invitation = session.ask(client.invite(request)).await?;
            person::invited(session, &invitation, " --dir /etc/holm/agent")
        }
        HostVerb::Revoke { name, reason, dry_run } => {
            let subject = Some(Revocable::Host(name.clone()));
            let next = format!("holm host invite {name}");
            person::revoke(session, RevokeRequest { subject, reason, dry_run }, &next).await
        }
        HostVerb::Drain { host, device, reason } => {
            let now = maintain(session, &host, device.as_deref(), true, reason).await?;
            let (what, json) = served(&now, device.as_deref());
            let sentence =
                format!("{what} is out of service: nothing new is placed there, what runs runs on");
            session.output.done(&sentence, &json)?;
            session.output.next(&format!("holm host show {host}"))
        }
        HostVerb::Resume { host, device } => {
            let now = maintain(session, &host, device.as_deref(), false, String::new()).await?;
            let (what, json) = served(&now, device.as_deref());
            session.output.done(&format!("{what} is in service again"), &json)
        }
        HostVerb::ReleaseDevice { host, address, reason } => {
            let mut client = session.hosts().await?;
            let request = ReleaseDeviceRequest { host: host.clone(), address: address.clone(), reason };
            let now = session.ask(client.release_device(request)).await?;
            let (what, json) = served(&now, Some(&address));
            let sentence = format!("{what} leaves quarantine, and is cleaned before anybody gets it");
            session.output.done(&sentence, &json)?;
            session.output.next(&format!("holm host show {host}"))
        }
    }
}

async fn maintain(
    session: &Session,
    host: &str,
    device: Option<&str>,
    out: bool,
    reason: String,
) -> Result<Host, Failure> {
    let mut client = session.hosts().await?;
    let (host, device) = (host.to_owned(), device.unwrap_or_default().to_owned());
    session.ask(client.set_maintenance(SetMaintenanceRequest { host, device, out, reason })).await
}

/// What something was done to, in words and for scripts. A device stands there as the host has it.
fn served(host: &Host, typed: Option<&str>) -> (String, Value) {
    let Some(typed) = typed else { return (host.name.clone(), view::service_json(host, None)) };
    let device = view::named(host, typed);
    let address = device.and_then(|d| d.pci.as_ref()).map_or(typed, |pci| pci.address.as_str());
    (format!("{address} of {}", host.name), view::service_json(host, device))
}

/// The only host there is.
async fn only(session: &Session, mut client: HostServiceClient<Calls>) -> Result<Host, Failure> {
    let all = session.ask(client.list_hosts(ListHostsRequest {})).await?.hosts;
    match all.as_slice() {
        [host] => Ok(host.clone()),
        [] => Err(Failure::new("there is no host that you may see").hint("ask an operator")),
        [_, ..] => {
            Err(Failure::usage(format!("there are {} hosts: say which", all.len())).hint("holm host list"))
        }
    }
}

/// A host by its name.
pub(super) async fn get(
    session: &Session,
    client: &mut HostServiceClient<Calls>,
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
            let alerts = view::alerts(host);
            let alerts = match alerts.rows.as_slice() {
                [] => String::new(),
                [_, ..] => format!("\n{}", alerts.text(output.colour, output.width)),
            };
            let tree = view::Topology::new(host).map(|tree| format!("\n{}", tree.text(output)));
            let tree = tree.unwrap_or_default();
            crate::output::put(&format!("{}{alerts}\n{devices}{tree}", sheet.text(output.colour)))
        }
        Format::Json | Format::Csv => session.output.list(&table, &view::host_json(host)),
    }
}

fn topology(session: &Session, host: &Host, svg: Option<&Path>) -> Result<(), Failure> {
    let tree = view::Topology::new(host).ok_or_else(|| {
        Failure::new(format!("nothing is known of how `{}` is built: its agent has not told it", host.name))
            .hint(format!("holm host show {}", host.name))
    })?;
    let output = &session.output;
    if let Some(file) = svg {
        let drawing = view::svg(&host.name, &heading(host, &session.clock), &tree);
        if file == Path::new("-") {
            return crate::output::put(&drawing);
        }
        std::fs::write(file, drawing).map_err(|e| Failure::file("write", file, &e))?;
        let written = file.display().to_string();
        let json = json!({ "host": host.name, "file": written });
        return output.done(&format!("drew {} to `{written}`", host.name), &json);
    }
    let paths = view::paths(host);
    match output.format {
        Format::Table => {
            let heading = format!("{}: {}", host.name, heading(host, &session.clock));
            let heading = format!("{}\n", crate::text::plain(&heading));
            let paths = paths.text(output.colour, output.width);
            crate::output::put(&format!("{heading}\n{}\n{paths}", tree.text(output)))
        }
        Format::Json | Format::Csv => output.list(&paths, &view::topology_json(host)),
    }
}

/// What stands above a drawing: what is not real, or not of now, says so.
fn heading(host: &Host, clock: &Clock) -> String {
    let product = host.inventory.as_ref().map(|i| i.product.as_str()).filter(|product| !product.is_empty());
    let mut words = vec![product.unwrap_or("a machine that does not say what it is").to_owned()];
    if host.simulated {
        words.push("SIMULATED: all of it is made up".to_owned());
    }
    if !host.online {
        words.push("OFFLINE: as it was known when its agent was connected last".to_owned());
    }
    words.extend(host.maintenance.as_ref().map(|m| view::closed(m, clock)));
    words.join("; ")
}
