//! The agent that a guest's image carries, made for tests: it listens on a unix socket, takes the sandbox's secret or
//! refuses it, and proves in Hello what it has.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use porthole_agent_api::{
    agent::{
        Batch, EnrollRequest, EnrollResponse, HelloRequest, HelloResponse, KeepRequest, Kept, StatsRequest,
        StatsResponse, WatchRequest,
    },
    agent_ttrpc::{Agent, create_agent},
    limits::CONTRACT_VERSION,
    proof,
};
use tokio::sync::watch;
use ttrpc::r#async::{Server, ServerStreamSender, TtrpcContext};

/// How the double answers Enroll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    Takes,
    Refuses,
    /// Answers well and keeps nothing.
    Pretends,
    Hangs,
    /// Takes the secret, and answers no other call.
    HangsAfterwards,
}

struct Double {
    enrolment: Enrolment,
    secret: Arc<Mutex<Option<[u8; 32]>>>,
    kept: watch::Receiver<Vec<Kept>>,
}

/// The double, listening until it is dropped.
pub struct AgentDouble {
    secret: Arc<Mutex<Option<[u8; 32]>>>,
    kept: watch::Sender<Vec<Kept>>,
    _runtime: tokio::runtime::Runtime,
}

impl AgentDouble {
    pub fn listen(path: &Path, enrolment: Enrolment) -> Self {
        let secret = Arc::default();
        let (kept, to_keep) = watch::channel(Vec::new());
        let double = Double { enrolment, secret: Arc::clone(&secret), kept: to_keep };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let address = format!("unix://{}", path.display());
        let mut server = runtime.block_on(async {
            Server::new().bind(&address).expect("bound").register_service(create_agent(Arc::new(double)))
        });
        runtime.block_on(server.start()).expect("started");
        // It serves as long as it is there.
        runtime.spawn(async move {
            let _server = server;
            std::future::pending::<()>().await;
        });
        Self { secret, kept, _runtime: runtime }
    }

    /// Sends these parts to the companion, in each of its streams.
    pub fn keep(&self, parts: Vec<Kept>) {
        self.kept.send_replace(parts);
    }

    /// What it was enrolled with.
    pub fn secret(&self) -> Option<[u8; 32]> {
        *self.secret.lock().expect("no panic while held")
    }
}

fn refused(code: ttrpc::Code) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, "refused by the double"))
}

#[async_trait]
impl Agent for Double {
    async fn enroll(&self, _: &TtrpcContext, request: EnrollRequest) -> ttrpc::Result<EnrollResponse> {
        match self.enrolment {
            Enrolment::Hangs => std::future::pending().await,
            Enrolment::Refuses => Err(refused(ttrpc::Code::FAILED_PRECONDITION)),
            Enrolment::Pretends => Ok(EnrollResponse::default()),
            Enrolment::Takes | Enrolment::HangsAfterwards => {
                let secret = request.secret.try_into().map_err(|_| refused(ttrpc::Code::INVALID_ARGUMENT))?;
                *self.secret.lock().expect("no panic while held") = Some(secret);
                Ok(EnrollResponse::default())
            }
        }
    }

    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        if self.enrolment == Enrolment::HangsAfterwards {
            return std::future::pending().await;
        }
        let nonce = [9; proof::NONCE_BYTES];
        let secret = *self.secret.lock().expect("no panic while held");
        let proof = secret.and_then(|secret| proof::prove(&secret, &request.host_nonce, &nonce));
        Ok(HelloResponse {
            version: CONTRACT_VERSION,
            agent_nonce: nonce.to_vec(),
            proof: proof.unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn watch(
        &self,
        _: &TtrpcContext,
        _: WatchRequest,
        _: ServerStreamSender<Batch>,
    ) -> ttrpc::Result<()> {
        std::future::pending().await
    }

    async fn keep(
        &self,
        _: &TtrpcContext,
        _: KeepRequest,
        out: ServerStreamSender<Kept>,
    ) -> ttrpc::Result<()> {
        let mut kept = self.kept.clone();
        loop {
            let parts = kept.borrow_and_update().clone();
            for part in parts {
                out.send(&part).await?;
            }
            if kept.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn stats(&self, _: &TtrpcContext, _: StatsRequest) -> ttrpc::Result<StatsResponse> {
        Ok(StatsResponse::default())
    }
}
