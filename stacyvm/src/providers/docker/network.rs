//! A bridge of a sandbox's own, and ports that are published on the engine's host.
//!
//! One bridge for all would let sandboxes reach each other. A bridge of its own has
//! the engine's name service, and the engine's packet filter keeps bridges apart, but
//! for moments in which it makes another. It has the labels of its sandbox, by which it is found again: nothing but them names
//! it for sure, as engines allow two networks of one name.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, Network, NetworkCreateRequest, PortBinding, PortMap,
};
use bollard::query_parameters::ListNetworksOptions;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::create::{self, INSTANCE, Owner, SANDBOX, TENANT};
use super::end::GONE_WITHIN;
use super::error::{is_absent, map, status};
use super::left::Left;
use super::life::Life;
use super::patience::Answer;
use super::ticket;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::{Endpoint, Leftover, Reach};
use crate::sandbox::spec::Port;

/// The address on the engine's host that ports are published on.
const LOOPBACK: &str = "127.0.0.1";

/// The name of a bridge on the engine's host: at most 15 bytes.
fn interface(id: &SandboxId) -> String {
    let digest = ticket::hex(&Sha256::digest(id.as_str()));
    format!("svm-{}", &digest[..11])
}

/// What the engine is told of a bridge.
fn bridge(id: &SandboxId, owner: &Owner<'_>) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: create::container(id),
        driver: Some("bridge".to_owned()),
        internal: Some(false),
        attachable: Some(false),
        enable_ipv6: Some(false),
        options: Some(HashMap::from([(
            "com.docker.network.bridge.name".to_owned(),
            interface(id),
        )])),
        labels: Some(HashMap::from([
            (INSTANCE.to_owned(), owner.instance.to_string()),
            (SANDBOX.to_owned(), id.to_string()),
            (TENANT.to_owned(), owner.tenant.to_string()),
        ])),
        ..NetworkCreateRequest::default()
    }
}

/// The ports as the engine is told them: those that are exposed, and where.
pub(super) fn bindings(ports: &[Port]) -> (Vec<String>, PortMap) {
    let mut all = PortMap::new();
    for port in ports {
        let binding = PortBinding {
            host_ip: Some(LOOPBACK.to_owned()),
            // Nothing lets the engine choose.
            host_port: Some(match port.host {
                0 => String::new(),
                port => port.to_string(),
            }),
        };
        all.entry(name_of(port.guest))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    let mut exposed: Vec<String> = all.keys().cloned().collect();
    exposed.sort();
    (exposed, all)
}

fn name_of(port: u16) -> String {
    format!("{port}/tcp")
}

/// Where a port is reached by others on the engine's host: the first place, where
/// it has several.
pub(super) fn endpoint(seen: &ContainerInspectResponse, port: u16) -> Option<Endpoint> {
    let ports = seen.network_settings.as_ref()?.ports.as_ref()?;
    let binding = ports.get(&name_of(port))?.as_ref()?.first()?;
    Some(Endpoint {
        address: address(binding)?,
        headers: std::collections::BTreeMap::new(),
    })
}

/// The ports that are published, for people: `8080 on 127.0.0.1:32768`.
pub(super) fn published(seen: &ContainerInspectResponse) -> Option<String> {
    let ports = seen.network_settings.as_ref()?.ports.as_ref()?;
    let mut all: Vec<(u16, String)> = Vec::new();
    for (name, bindings) in ports {
        let Some(guest) = name.split('/').next().and_then(|port| port.parse().ok()) else {
            continue;
        };
        let bindings = bindings.iter().flatten();
        all.extend(bindings.filter_map(address).map(|at| (guest, at)));
    }
    all.sort();
    let all: Vec<String> = all
        .into_iter()
        .map(|(guest, at)| format!("{guest} on {at}"))
        .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn address(binding: &PortBinding) -> Option<String> {
    let host = binding.host_ip.as_deref()?;
    let port = binding.host_port.as_deref()?;
    Some(format!("{host}:{port}"))
}

impl Life {
    /// Makes the bridge of a sandbox and tells its id. One that an earlier try has
    /// left goes first.
    pub(super) async fn make_bridge(&self, id: &SandboxId, owner: &Owner<'_>) -> Result<String> {
        self.remove_bridge(id).await?;
        let made = self
            .docker
            .create_network(bridge(id, owner))
            .within(&self.docker)
            .await;
        match made {
            Ok(made) => Ok(made.id),
            // The engine has no status of its own for it.
            Err(e) if e.to_string().contains("address pool") => Err(Error::new(
                ErrorKind::ResourceExhausted,
                "the docker engine has no range of addresses left for the network of another \
                 sandbox; end some, or give it more by `default-address-pools` in its configuration",
            )
            .context("field", "network")
            .source(map(e))),
            Err(e) => Err(map(e).context("field", "network")),
        }
    }

    /// Removes the bridge of a sandbox, waiting for what still hangs on it. None is
    /// success.
    pub(super) async fn remove_bridge(&self, id: &SandboxId) -> Result<()> {
        let labels = vec![
            format!("{INSTANCE}={}", self.config.instance),
            format!("{SANDBOX}={id}"),
        ];
        for network in self.networks(labels).await? {
            let Some(network) = network.id else { continue };
            self.remove_network(&network).await?;
        }
        Ok(())
    }

    async fn networks(&self, labels: Vec<String>) -> Result<Vec<Network>> {
        let options = ListNetworksOptions {
            filters: Some([("label".to_owned(), labels)].into()),
        };
        self.docker
            .list_networks(Some(options))
            .within(&self.docker)
            .await
            .map_err(map)
    }

    /// By its own id, never by a name, which may be another's.
    async fn remove_network(&self, network: &str) -> Result<()> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            match self
                .docker
                .remove_network(network)
                .within(&self.docker)
                .await
            {
                // A container that has just ended still hangs on it.
                Err(e) if matches!(status(&e), Some(403 | 409)) && Instant::now() < until => {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(e) if !is_absent(&e) => return Err(map(e)),
                _ => return Ok(()),
            }
        }
    }

    /// Where a published port is reached.
    pub(super) async fn published_at(&self, id: &SandboxId, port: u16) -> Result<Endpoint> {
        let Some(seen) = self.look(id).await? else {
            return Err(super::life::gone(ErrorKind::NotFound).context("sandbox", id));
        };
        endpoint(&seen, port).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "port {port} is not published, expected one of the spec's `ports`; \
                     publish it at create, or dial it"
                ),
            )
            .context("field", "port")
            .context("value", port)
        })
    }

    /// The bridges of stacyvm beside these containers.
    pub(super) async fn left_networks(
        &self,
        reach: Reach,
        containers: &[ContainerSummary],
        now: SystemTime,
    ) -> Result<Vec<Leftover>> {
        let left = Left { containers, now };
        let label = match reach {
            Reach::Own => format!("{INSTANCE}={}", self.config.instance),
            Reach::Host => INSTANCE.to_owned(),
        };
        let seen = self.networks(vec![label]).await?;
        Ok(seen
            .iter()
            .filter_map(|network| leftover(network, &left))
            .collect())
    }

    /// Removes a bridge that [`Life::left_networks`] named.
    pub(super) async fn remove_left_network(&self, leftover: &Leftover) -> Result<()> {
        self.remove_network(&leftover.name).await
    }
}

/// A bridge of stacyvm.
fn leftover(seen: &Network, left: &Left<'_>) -> Option<Leftover> {
    let made = seen.created.as_deref();
    left.judge("network", seen.id.clone()?, seen.labels.as_ref()?, made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, TenantId};
    use crate::units::parse_time;
    use bollard::models::NetworkSettings;

    #[test]
    fn a_bridge_has_the_labels_of_its_sandbox_and_a_name_that_the_kernel_takes() {
        let (id, instance, tenant) = (
            SandboxId::random(),
            InstanceId::random(),
            TenantId::default(),
        );
        let owner = Owner {
            instance: &instance,
            tenant: &tenant,
        };
        let made = bridge(&id, &owner);
        assert_eq!(made.labels.unwrap()[SANDBOX], id.to_string());
        let options = made.options.unwrap();
        let name = &options["com.docker.network.bridge.name"];
        assert!(name.starts_with("svm-") && name.len() <= 15, "{name}");
        assert_ne!(*name, interface(&SandboxId::random()));
    }

    #[test]
    fn ports_are_published_on_loopback_alone_and_told() {
        let ports = [(8080, 0), (8080, 9000), (53, 5353)];
        let ports = ports.map(|(guest, host)| Port { guest, host });
        let (exposed, all) = bindings(&ports);
        assert_eq!(exposed, ["53/tcp", "8080/tcp"]);
        let of = |name: &str| all[name].clone().unwrap();
        assert_eq!(of("8080/tcp").len(), 2);
        assert_eq!(of("8080/tcp")[0].host_port.as_deref(), Some(""));
        assert_eq!(of("53/tcp")[0].host_port.as_deref(), Some("5353"));
        let mut bindings = all.values().flatten().flatten();
        assert!(bindings.all(|binding| binding.host_ip.as_deref() == Some("127.0.0.1")));

        let seen = ContainerInspectResponse {
            network_settings: Some(NetworkSettings {
                ports: Some(HashMap::from([
                    ("53/tcp".to_owned(), all["53/tcp"].clone()),
                    // Of the image, and published nowhere.
                    ("80/tcp".to_owned(), None),
                ])),
                ..NetworkSettings::default()
            }),
            ..ContainerInspectResponse::default()
        };
        assert_eq!(published(&seen).as_deref(), Some("53 on 127.0.0.1:5353"));
        assert_eq!(endpoint(&seen, 53).unwrap().address, "127.0.0.1:5353");
        assert_eq!(endpoint(&seen, 80), None);
        assert_eq!(endpoint(&seen, 5353), None);
        assert_eq!(published(&ContainerInspectResponse::default()), None);
    }

    #[test]
    fn a_bridge_is_left_when_its_container_is_not_there_any_more() {
        let (id, instance) = (SandboxId::random(), InstanceId::random());
        let labels = HashMap::from([
            (INSTANCE.to_owned(), instance.to_string()),
            (SANDBOX.to_owned(), id.to_string()),
            (TENANT.to_owned(), "default".to_owned()),
        ]);
        let network = Network {
            id: Some("n".into()),
            created: Some("2000-03-01T00:00:00Z".into()),
            labels: Some(labels.clone()),
            ..Network::default()
        };
        let made = parse_time("2000-03-01T00:00:00Z").unwrap();
        let container = |labels: &HashMap<String, String>| ContainerSummary {
            labels: Some(labels.clone()),
            ..ContainerSummary::default()
        };
        let lives = |containers: &[ContainerSummary], age| {
            let now = made + Duration::from_secs(age);
            leftover(&network, &Left { containers, now })
                .unwrap()
                .owner_lives
        };
        assert!(lives(&[], 60));
        assert!(!lives(&[], 180));
        assert!(lives(&[container(&labels)], 180));
        let mut other = labels.clone();
        other.insert(INSTANCE.to_owned(), InstanceId::random().to_string());
        assert!(!lives(&[container(&other)], 180));
        // A near miss is somebody else's.
        let left = Left {
            containers: &[],
            now: made,
        };
        for missing in [INSTANCE, SANDBOX, TENANT] {
            let mut network = network.clone();
            network.labels.as_mut().unwrap().remove(missing);
            assert_eq!(leftover(&network, &left), None);
        }
    }
}
