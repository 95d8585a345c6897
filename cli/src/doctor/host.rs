//! Devices, programs, images and directories.

use std::{
    net::TcpStream,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use procfs::{CpuInfo, Current as _};

use super::{Check, configuration::Settings, device, kata, program};
use crate::exporter::{self, Client};

/// The embedded runtime's shim.
const EMBEDDED: &str = "containerd-shim-porthole-microvm-v2";

/// Where distributions put programs that are not in `PATH`.
const USUAL_VIRTIOFSD: [&str; 4] =
    ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"];
const USUAL_VSOCK: [&str; 2] = ["/usr/lib/porthole/vhost-device-vsock", "/usr/bin/vhost-device-vsock"];

/// Checks what sandboxes need.
pub fn check(settings: &Settings, checks: &mut Vec<Check>) {
    let delegate = settings.text("shim", "delegate").unwrap_or_else(|| EMBEDDED.into());
    checks.push(shim("shim", "containerd-shim-porthole-v2", "run `porthole install`"));
    checks.push(shim("delegate", &delegate, "install that runtime, or correct [shim] delegate"));
    checks.push(sidecar(settings));
    if Path::new(&delegate).file_name().is_some_and(|name| name == EMBEDDED) {
        checks.push(kvm(settings));
        checks.push(vsock(settings));
        checks.push(needed(settings, "qemu", "qemu", "qemu-system-x86_64", &[], "qemu-system-x86"));
        checks.push(needed(settings, "virtiofsd", "virtiofsd", "virtiofsd", &USUAL_VIRTIOFSD, "virtiofsd"));
        checks.push(image(settings, "guest kernel", "kernel"));
        checks.push(image(settings, "guest initrd", "initrd"));
    } else {
        checks.push(Check::ok("microvm", format!("not used: the delegate is {delegate}")));
        if kata::is_kata(&delegate) {
            kata::check(checks);
        }
    }
    checks.push(registry(settings));
}

fn shim(check: &'static str, program: &str, remedy: &str) -> Check {
    match program::find(program, &[]) {
        Some(path) => Check::ok(check, path.display().to_string()),
        None => Check::fail(
            check,
            format!("{program} is not in PATH"),
            format!("{remedy}; containerd looks for it in the PATH of its own service"),
        ),
    }
}

fn sidecar(settings: &Settings) -> Check {
    const NAME: &str = "sidecar";
    let rootfs = PathBuf::from(settings.text("shim", "sidecar_rootfs").unwrap_or_default());
    let agent = rootfs.join("porthole-agent");
    if !program::is_executable(&agent) {
        return Check::fail(
            NAME,
            format!("{} is no program", agent.display()),
            "run `porthole install`, or correct [shim] sidecar_rootfs",
        );
    }
    Check::ok(NAME, agent.display().to_string())
}

/// Whether a processor's flags include Intel's or AMD's virtualization. That the device exists is not enough: nested hosts
/// have it without the processor's virtualization, and a guest started on it hangs.
fn processor_virtualises(cpuinfo: &CpuInfo) -> bool {
    cpuinfo.flags(0).is_some_and(|flags| flags.iter().any(|flag| ["vmx", "svm"].contains(flag)))
}

fn kvm(settings: &Settings) -> Check {
    const NAME: &str = "kvm";
    let accelerator = settings.text("microvm", "accelerator").unwrap_or_default();
    if accelerator == "tcg" {
        return Check::ok(NAME, "not used: [microvm] accelerator is \"tcg\"");
    }
    let cpuinfo = CpuInfo::current();
    let problem = match device::usable("/dev/kvm") {
        Ok(()) if cpuinfo.is_ok_and(|cpuinfo| processor_virtualises(&cpuinfo)) => {
            return Check::ok(NAME, "/dev/kvm can be used");
        }
        Ok(()) => "/dev/kvm is there, but the processor has no virtualization (vmx, svm)".to_owned(),
        Err(error) => format!("/dev/kvm: {error}"),
    };
    let remedy = "switch virtualization on in the firmware (or nested virtualization in the cloud), load kvm_intel or \
                  kvm_amd, run as root";
    if accelerator == "kvm" {
        let remedy = format!("{remedy}; or set accelerator = \"auto\"");
        return Check::fail(NAME, format!("{problem}, and [microvm] accelerator is \"kvm\""), remedy);
    }
    Check::warn(NAME, format!("{problem}: guests are emulated, and slow"), remedy)
}

fn vsock(settings: &Settings) -> Check {
    const NAME: &str = "vsock";
    let error = match device::usable("/dev/vhost-vsock") {
        Ok(()) => return Check::ok(NAME, "/dev/vhost-vsock can be used"),
        Err(error) => error,
    };
    let configured = settings.text("microvm", "vhost_device_vsock");
    let program = configured.as_deref().unwrap_or("vhost-device-vsock");
    match program::find(program, &USUAL_VSOCK) {
        Some(path) => {
            Check::ok(NAME, format!("/dev/vhost-vsock: {error}; {} takes its place", path.display()))
        }
        None => Check::fail(
            NAME,
            format!("/dev/vhost-vsock: {error}, and there is no {program}"),
            "`modprobe vhost_vsock`, or `cargo install vhost-device-vsock`",
        ),
    }
}

fn needed(
    settings: &Settings,
    check: &'static str,
    key: &str,
    name: &str,
    usual: &[&str],
    package: &str,
) -> Check {
    let configured = settings.text("microvm", key);
    let Some(path) = program::find(configured.as_deref().unwrap_or(name), usual) else {
        let wanted = configured.unwrap_or_else(|| name.to_owned());
        let remedy = format!("install {package}, or name the program in [microvm] {key}");
        return Check::fail(check, format!("{wanted} is not there"), remedy);
    };
    match program::version(&path) {
        Ok(version) => Check::ok(check, format!("{}: {version}", path.display())),
        Err(error) => {
            Check::fail(check, format!("{}: {error:#}", path.display()), format!("reinstall {package}"))
        }
    }
}

fn image(settings: &Settings, check: &'static str, key: &str) -> Check {
    let path = PathBuf::from(settings.text("microvm", key).unwrap_or_default());
    let remedy = format!("run `porthole install`, or correct [microvm] {key}");
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(data) if data.is_file() && data.len() > 0 => {
            Check::ok(check, format!("{}, {} KiB", path.display(), data.len() / 1024))
        }
        Ok(_) => Check::fail(check, format!("{} is empty or no file", path.display()), remedy),
        Err(error) => Check::fail(check, format!("{}: {error}", path.display()), remedy),
    }
}

/// Records name the tenant of a sandbox: only root may write them.
fn registry(settings: &Settings) -> Check {
    const NAME: &str = "registry";
    let path = PathBuf::from(settings.text("registry", "directory").unwrap_or_default());
    let shown = path.display();
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Check::warn(
            NAME,
            format!("{shown} is not there yet"),
            "nothing, when no sandbox has run since the host started: the first one makes it",
        ),
        Err(error) => Check::fail(NAME, format!("{shown}: {error}"), "make it accessible, or run as root"),
        Ok(data) if !data.is_dir() => Check::fail(
            NAME,
            format!("{shown} is no directory"),
            "remove it, or correct [registry] directory",
        ),
        Ok(data) if data.mode() & 0o022 != 0 => {
            let remedy = format!("`chmod go-w {shown}`: who can write there decides whose numbers they are");
            Check::fail(
                NAME,
                format!("{shown} can be written by others, mode {:o}", data.mode() & 0o7777),
                remedy,
            )
        }
        Ok(data) if data.uid() != 0 => {
            let remedy = format!("`chown root {shown}`: who can write there decides whose numbers they are");
            Check::fail(NAME, format!("{shown} belongs to user {}", data.uid()), remedy)
        }
        Ok(data) => Check::ok(NAME, format!("{shown}, mode {:o}", data.mode() & 0o7777)),
    }
}

/// Whether the exporter serves.
pub fn exporter(settings: &Settings, checks: &mut Vec<Check>) {
    const NAME: &str = "exporter";
    let listen = settings.text("exporter", "listen").unwrap_or_default();
    let has_tls = settings.text("exporter", "tls_certificate").is_some();
    let asked = exporter::reachable(&listen).and_then(|address| {
        if has_tls {
            // Which authority its certificate has is known to its clients alone.
            TcpStream::connect(&address).with_context(|| format!("connect to the exporter at {address}"))?;
            return Ok(format!("accepts connections at https://{address}"));
        }
        let client = Client::at(address)?;
        client.bytes("/healthz").map(|_| format!("serves http://{}/metrics", client.address()))
    });
    checks.push(match asked {
        Ok(found) => Check::ok(NAME, found),
        Err(error) => Check::warn(
            NAME,
            format!("{error:#}"),
            "`systemctl enable --now porthole-exporter`; sandboxes run without it, and nothing is lost",
        ),
    });
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    #[test]
    fn only_the_processors_flags_say_that_it_virtualises() {
        let of = |text: &str| processor_virtualises(&CpuInfo::from_read(text.as_bytes()).expect("cpuinfo"));
        assert!(of("processor\t: 0\nmodel name\t: x\nflags\t\t: fpu vmx sse\n\n"));
        assert!(of("processor\t: 0\nflags\t\t: svm\n\n"));
        assert!(!of("processor\t: 0\nmodel name\t: vmx\nflags\t\t: fpu vmxe\n\n"));
    }
}
