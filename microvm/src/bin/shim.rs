//! `containerd-shim-porthole-microvm-v2`.

/// One thread: programs that the shim starts are to die with it, and the kernel ties that to the thread that started
/// them.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    porthole_microvm::shim::launch::run().await;
}
