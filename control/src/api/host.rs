//! Hosts and their devices, for operators.

use super::{About, Asked, Seen, commissioning, parsed, view};
use crate::app::App;
use crate::domain::records::{Device, Host, Slice};
use crate::domain::{Refusal, RefusalKind, State, device, maintenance};
use crate::ledger::Decided;
use holm_policies::{Action, Resource};
use holm_proto::ids::{Name, NoDevice, PciAddress, TypedPciAddress};
use holm_proto::v1;
use holm_proto::v1::host_service_server::HostService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Characters of a reason.
const REASON_MAX: usize = 200;

#[derive(Clone)]
pub(super) struct Hosts(pub Arc<App>);

#[tonic::async_trait]
impl HostService for Hosts {
    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        Asked::new(&self.0, request.extensions(), Action::HostRead, About::system())?
            .list(|scene, may| {
                let state = scene.state;
                let sees = sees(scene.seen(), may);
                let hosts = state
                    .hosts
                    .values()
                    .filter(|h| may(Action::HostRead, Resource::Host { name: h.name.clone() }))
                    .map(|h| whole(scene.app, state, h, &sees))
                    .collect();
                Ok(v1::ListHostsResponse { hosts })
            })
            .await
    }

    async fn get_host(&self, request: Request<v1::GetHostRequest>) -> Result<Response<v1::Host>, Status> {
        let name = request.get_ref().name.clone();
        let asked = Asked::new(&self.0, request.extensions(), Action::HostRead, About::host(&name))?;
        let again = asked.clone();
        asked
            .read(move |state| find(state, &name), move |scene, host| Ok(shown(&again, scene.state, &host)))
            .await
    }

    async fn release_device(
        &self,
        request: Request<v1::ReleaseDeviceRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let message = request.get_ref().clone();
        let about = about(&message.host, &message.address);
        let asked = Asked::new(&self.0, request.extensions(), Action::DeviceRelease, about)?;
        let again = asked.clone();
        asked
            .change(
                move |state| {
                    let address: TypedPciAddress = parsed(&message.address)?;
                    if message.reason.chars().count() > REASON_MAX {
                        let text = format!("a reason has at most {REASON_MAX} characters");
                        return Err(Refusal::new(RefusalKind::Invalid, text));
                    }
                    let found = find(state, &message.host)?;
                    Ok(found.map(|(resource, host)| (resource, (host, address, message.reason))))
                },
                move |scene, (host, address, reason)| {
                    let device = find_device(scene.state, &host.name, address)?;
                    let change = device::release(device, scene.person()?, &reason)?;
                    let mut state = scene.state.clone();
                    state.apply(std::slice::from_ref(&change));
                    let value = shown(&again, &state, &host);
                    Ok(Decided::new(vec![change], value))
                },
            )
            .await
    }

    async fn set_maintenance(
        &self,
        request: Request<v1::SetMaintenanceRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let message = request.get_ref().clone();
        let about = about(&message.host, &message.device);
        let asked = Asked::new(&self.0, request.extensions(), Action::HostMaintain, about)?;
        let again = asked.clone();
        asked
            .change(
                move |state| {
                    let device = match message.device.as_str() {
                        "" => None,
                        address => Some(parsed::<TypedPciAddress>(address)?),
                    };
                    if message.reason.chars().count() > REASON_MAX {
                        let text = format!("a reason has at most {REASON_MAX} characters");
                        return Err(Refusal::new(RefusalKind::Invalid, text));
                    }
                    let found = find(state, &message.host)?;
                    Ok(found.map(|(resource, host)| (resource, (host, device, message))))
                },
                move |scene, (host, device, message)| {
                    let reason = super::plain(&message.reason, REASON_MAX * 4);
                    let by = scene.person()?.clone();
                    let order = maintenance::Order { out: message.out, by, reason };
                    let change = match device {
                        None => maintenance::host(&host, &order, scene.now)?,
                        Some(address) => {
                            let device = find_device(scene.state, &host.name, address)?;
                            maintenance::device(device, &order, scene.now)?
                        }
                    };
                    let mut state = scene.state.clone();
                    state.apply(std::slice::from_ref(&change));
                    let host = state.hosts.get(&host.name).cloned().unwrap_or(host);
                    let detail = serde_json::json!({ "out": order.out, "reason": order.reason });
                    let value = shown(&again, &state, &host);
                    Ok(Decided { detail, ..Decided::new(vec![change], value) })
                },
            )
            .await
    }
}

/// A host, or a device of it as it was typed.
pub(super) fn about(host: &str, device: &str) -> About {
    let about = About::host(host);
    if device.is_empty() {
        return about;
    }
    let device = device.parse().map_or_else(|_| super::shown(device), |d: TypedPciAddress| d.to_string());
    About { resource: format!("{}/{device}", about.resource), ..about }
}

/// The device of a host that somebody means.
pub(super) fn find_device<'a>(
    state: &'a State,
    host: &Name,
    typed: TypedPciAddress,
) -> Result<&'a Device, Refusal> {
    let found = typed.among(state.host_devices(host).map(|d| d.address));
    let device = found.map(|address: PciAddress| state.devices.get(&(host.clone(), address)));
    let refused = |kind, text: String| Refusal::new(kind, text).hint(format!("holm host show {host}"));
    match device {
        Ok(Some(device)) => Ok(device),
        Err(e @ NoDevice::Ambiguous { .. }) => Err(refused(RefusalKind::Invalid, e.to_string())),
        Ok(None) | Err(NoDevice::Unknown(_)) => {
            Err(refused(RefusalKind::NotFound, format!("there is no device `{typed}` in `{host}`")))
        }
    }
}

/// The host of that name; without a name the only one. How many there are is told to who may read them.
pub(super) fn find(state: &State, name: &str) -> Result<Option<(Resource, Host)>, Refusal> {
    let host = if name.is_empty() {
        state.hosts.values().next().filter(|_| state.hosts.len() == 1)
    } else {
        state.hosts.get(&parsed::<Name>(name)?)
    };
    Ok(host.map(|h| (Resource::Host { name: h.name.clone() }, h.clone())))
}

fn shown(asked: &Asked, state: &State, host: &Host) -> v1::Host {
    let sees = |s: &Slice| {
        let reading = Asked { action: Action::SliceRead, ..asked.clone() };
        view::slice_resource(&asked.seen(state), s).is_some_and(|r| reading.allowed(state, r))
    };
    whole(&asked.app, state, host, &sees)
}

/// A host with what is not as it should be.
fn whole(app: &App, state: &State, host: &Host, sees: &dyn Fn(&Slice) -> bool) -> v1::Host {
    v1::Host {
        alerts: commissioning::alerts(app, state, host),
        commissioning: host.commissioning.as_ref().map(commissioning::commissioning),
        ..view::host(state, &app.live, host, sees)
    }
}

fn sees<'a>(seen: Seen<'a>, may: &'a dyn Fn(Action, Resource) -> bool) -> impl Fn(&Slice) -> bool + 'a {
    move |s| view::slice_resource(&seen, s).is_some_and(|r| may(Action::SliceRead, r))
}
