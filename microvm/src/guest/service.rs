//! The edge to the host: each call of the ttrpc service is one call of the table of containers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};
use ttrpc::r#async::TtrpcContext;

use super::{GuestError, agent::Until, containers::Containers, network};
use crate::wire::{guest, guest_ttrpc};

/// The clock is set only when it is off by more than this: what runs in the guest may be measuring.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(20);

/// The service.
pub struct GuestService {
    containers: Arc<Containers>,
}

impl GuestService {
    /// Serves this table.
    pub fn new(containers: Arc<Containers>) -> Self {
        Self { containers }
    }
}

fn answer<T: Default>(result: Result<T, GuestError>) -> ttrpc::Result<T> {
    result.map_err(|error| {
        let code = match &error {
            GuestError::NotFound(_) => ttrpc::Code::NOT_FOUND,
            GuestError::State(_) => ttrpc::Code::FAILED_PRECONDITION,
            GuestError::Json { .. } => ttrpc::Code::INVALID_ARGUMENT,
            GuestError::Io { .. } | GuestError::Container(_) | GuestError::Network(_) => ttrpc::Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.to_string()))
    })
}

fn done(result: Result<(), GuestError>) -> ttrpc::Result<guest::Empty> {
    answer(result.map(|()| guest::Empty::new()))
}

fn process_id(pid: i32) -> guest::ProcessId {
    guest::ProcessId { pid: u32::try_from(pid).unwrap_or(0), ..Default::default() }
}

fn configure(request: &guest::ConfigureRequest) -> Result<guest::ConfigureResponse, GuestError> {
    let host = Duration::from_nanos(request.unix_nanos);
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if request.unix_nanos > 0 && host.abs_diff(own) > CLOCK_TOLERANCE {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(host))
            .map_err(GuestError::errno("set the clock"))?;
    }
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(GuestError::errno("read the clock"))?;
    let names = nix::sys::utsname::uname().map_err(GuestError::errno("read the kernel's name"))?;
    Ok(guest::ConfigureResponse {
        kernel: names.release().to_string_lossy().into_owned(),
        boot_micros: u64::try_from(Duration::from(since_boot).as_micros()).unwrap_or(u64::MAX),
        ..Default::default()
    })
}

#[async_trait]
impl guest_ttrpc::Guest for GuestService {
    async fn configure(
        &self,
        _: &TtrpcContext,
        request: guest::ConfigureRequest,
    ) -> ttrpc::Result<guest::ConfigureResponse> {
        self.containers.set_agent_wait(request.agent_wait_ms);
        answer(configure(&request))
    }

    async fn set_network(
        &self,
        _: &TtrpcContext,
        request: guest::SetNetworkRequest,
    ) -> ttrpc::Result<guest::Empty> {
        done(network::set(&request).await)
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: guest::CreateContainerRequest,
    ) -> ttrpc::Result<guest::ProcessId> {
        let streams = request.streams.unwrap_or_default();
        answer(self.containers.create(&request.id, request.spec, streams).await.map(process_id))
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: guest::StartContainerRequest,
    ) -> ttrpc::Result<guest::Empty> {
        let until = if request.agent_enrols { Until::Enrolled } else { Until::Attached };
        done(self.containers.start(&request.id, until).await)
    }

    async fn exec(&self, _: &TtrpcContext, request: guest::ExecRequest) -> ttrpc::Result<guest::ProcessId> {
        let streams = request.streams.get_or_default();
        let made = self.containers.exec(&request.id, &request.exec_id, &request.process, streams).await;
        answer(made.map(process_id))
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: guest::ProcessRequest,
    ) -> ttrpc::Result<guest::WaitResponse> {
        let exit = self.containers.wait(&request.id, &request.exec_id).await;
        answer(exit.map(|exit| guest::WaitResponse {
            status: exit.status,
            exited_unix_nanos: exit.unix_nanos,
            ..Default::default()
        }))
    }

    async fn signal(&self, _: &TtrpcContext, request: guest::SignalRequest) -> ttrpc::Result<guest::Empty> {
        let signal = i32::try_from(request.signal).unwrap_or(i32::MAX);
        done(self.containers.signal(&request.id, &request.exec_id, signal, request.all))
    }

    async fn resize(&self, _: &TtrpcContext, request: guest::ResizeRequest) -> ttrpc::Result<guest::Empty> {
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let (width, height) = (size(request.width), size(request.height));
        done(self.containers.resize(&request.id, &request.exec_id, width, height))
    }

    async fn remove(&self, _: &TtrpcContext, request: guest::ProcessRequest) -> ttrpc::Result<guest::Empty> {
        done(self.containers.remove(&request.id, &request.exec_id).await)
    }

    async fn pause(&self, _: &TtrpcContext, request: guest::ContainerRequest) -> ttrpc::Result<guest::Empty> {
        done(self.containers.pause(&request.id).await)
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: guest::ContainerRequest,
    ) -> ttrpc::Result<guest::Empty> {
        done(self.containers.resume(&request.id))
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: guest::ContainerRequest,
    ) -> ttrpc::Result<guest::PidsResponse> {
        let pids = self.containers.pids(&request.id);
        answer(pids.map(|pids| guest::PidsResponse { pids, ..Default::default() }))
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: guest::ContainerRequest,
    ) -> ttrpc::Result<guest::StatsResponse> {
        answer(self.containers.stats(&request.id))
    }

    async fn update(&self, _: &TtrpcContext, request: guest::UpdateRequest) -> ttrpc::Result<guest::Empty> {
        done(self.containers.update(&request.id, &request.resources))
    }

    async fn wait_oom(&self, _: &TtrpcContext, _: guest::Empty) -> ttrpc::Result<guest::ContainerRequest> {
        Ok(guest::ContainerRequest { id: self.containers.wait_oom().await, ..Default::default() })
    }

    async fn quiesce(&self, _: &TtrpcContext, request: guest::QuiesceRequest) -> ttrpc::Result<guest::Empty> {
        self.containers.quiesce(Duration::from_millis(request.agent_ms)).await;
        Ok(guest::Empty::new())
    }
}
