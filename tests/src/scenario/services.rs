//! Services of one tenant, each in a guest of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};

use super::wait_watched;
use crate::{
    container::{Container, Launch, PORTHOLE},
    environment::{Environment, Settings},
    http::{Connection, Response},
    image::Image,
    network::Endpoint,
    wait,
};

/// Time between two attempts to reach a service that starts.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// A service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    /// Its name.
    pub name: &'static str,
    /// Last byte of its address.
    pub host: u8,
    /// Its program.
    pub command: &'static [&'static str],
}

/// Services that run. Containers are dropped before the endpoints.
#[derive(Debug)]
pub(super) struct Services {
    pub environment: Arc<Environment>,
    tenant: &'static str,
    image: Image,
    containers: Vec<Container>,
    endpoints: Vec<Endpoint>,
}

impl Services {
    /// None yet, of a tenant, whose image is imported into the containerd namespace of its name.
    pub fn of(environment: &Arc<Environment>, tenant: &'static str, image: Image) -> Self {
        let environment = Arc::clone(environment);
        Self { environment, tenant, image, containers: Vec::new(), endpoints: Vec::new() }
    }

    /// Starts one with further options of `ctr run`. `progress` gets a line about it.
    pub fn start(&mut self, service: Service, options: &[&str], progress: &dyn Fn(&str)) -> Result<()> {
        let Service { name, host, command } = service;
        let endpoint = self.environment.endpoint(name, host)?;
        let id = self.environment.unique(name);
        let annotations = [("io.porthole.service", name)];
        let launch = Launch::new(self.tenant, &id, PORTHOLE, command)
            .from_image(self.image)
            .on(&endpoint)
            .annotated(&annotations)
            .with_options(options);
        let container =
            launch.start(&self.environment.containerd).with_context(|| format!("start {name}"))?;
        progress(&format!(
            "{}/{name}: first process after {:.1} s",
            self.tenant,
            container.start.as_secs_f64()
        ));
        self.containers.push(container);
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// The same in a guest with so much memory.
    pub fn start_with_memory(
        &mut self,
        memory_mib: u32,
        service: Service,
        options: &[&str],
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        let settings = Settings::default().with("microvm", "memory_mib", memory_mib);
        let environment = Arc::clone(&self.environment);
        environment.with_settings(&settings, || self.start(service, options, progress))
    }

    /// Makes an address at which nothing listens.
    pub fn add_address(&mut self, name: &str, host: u8) -> Result<()> {
        self.endpoints.push(self.environment.endpoint(name, host)?);
        Ok(())
    }

    /// Waits until every one is watched.
    pub fn wait_watched(&self) -> Result<()> {
        self.containers.iter().try_for_each(|container| wait_watched(&self.environment, &container.id))
    }

    /// Waits until one accepts connections at a port; an error as soon as any has ended.
    pub fn wait_listening(&self, service: Service, port: u16, deadline: Duration) -> Result<()> {
        let address = self.at(service, port)?;
        wait::until(&format!("{} accepts connections", service.name), deadline, || {
            let Err(refused) = self.environment.from_hub(|| Connection::open(address).map(drop)) else {
                return Ok(Some(Ok(())));
            };
            if let Some(ended) = self.ended()? {
                let error = anyhow!("{ended} ended before {} accepted connections", service.name);
                return Ok(Some(Err(error)));
            }
            wait::hold(BETWEEN_ATTEMPTS)?;
            Err(refused)
        })?
    }

    /// The first one that does not run any more.
    fn ended(&self) -> Result<Option<&str>> {
        for container in &self.containers {
            if container.status()?.is_none_or(|status| status != "RUNNING") {
                return Ok(Some(&container.id));
            }
        }
        Ok(None)
    }

    /// A port of one, for a thread in the hub.
    pub fn at(&self, service: Service, port: u16) -> Result<SocketAddr> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.address.octets()[3] == service.host);
        Ok(endpoint.with_context(|| format!("{} was not started", service.name))?.at(port))
    }

    /// Sends one request on a connection of its own; the response has to have this status.
    pub fn request(&self, to: SocketAddr, method: &str, target: &str, status: u16) -> Result<Response> {
        let response = self.environment.from_hub(|| Connection::open(to)?.request(method, target))?;
        ensure!(response.status == status, "{method} {target}: {} {}", response.status, response.text());
        Ok(response)
    }
}
