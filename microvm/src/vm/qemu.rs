//! QEMU's command line, and whether KVM is of use here.

use std::{
    ffi::OsString,
    fmt::Write as _,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use crate::{
    config::{Accelerator, Microvm},
    wire::SHARED_TAG,
};

/// How the guest gets its vsock.
#[derive(Debug)]
pub enum VsockDevice {
    /// The host kernel's vhost-vsock, by an open descriptor.
    Kernel {
        /// `/dev/vhost-vsock`, opened and bound to the context id.
        descriptor: RawFd,
        /// The guest's context id.
        cid: u32,
    },
    /// A vhost-user device behind a unix socket.
    User {
        /// A connection to the device.
        connection: OwnedFd,
    },
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The configuration.
    pub config: &'a Microvm,
    /// Whether KVM runs it.
    pub kvm: bool,
    /// The rate of the processor's time stamp counter, where the guest would have to measure it.
    pub tsc_khz: Option<u32>,
    /// The sandbox, for QEMU's name.
    pub name: &'a str,
    /// A connection to virtiofsd.
    pub virtiofs: RawFd,
    /// The vsock.
    pub vsock: &'a VsockDevice,
    /// The tap's descriptor.
    pub tap: RawFd,
}

/// On the kernel's command line always. No stop at the console, an end instead of a reboot after a panic, and none of
/// the probing for hardware that a virtual machine does not have. `preempt=voluntary` is what the distribution's kernel
/// does anyway; with it on the command line the agent knows that nothing interrupts its programs on functions.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet panic=-1 reboot=t nokaslr tsc=reliable no_timer_check \
                                 noreplace-smp cryptomgr.notests 8250.nr_uarts=1 random.trust_cpu=on \
                                 rcupdate.rcu_expedited=1 preempt=voluntary";

/// The guest's whole kernel command line.
fn kernel_parameters(config: &Microvm, tsc_khz: Option<u32>) -> String {
    let mut parameters = KERNEL_PARAMETERS.to_owned();
    if let Some(khz) = tsc_khz {
        // A string takes whatever is written.
        let _ = write!(parameters, " tsc_early_khz={khz}");
    }
    for argument in &config.agent_arguments {
        parameters.push_str(" porthole.agent_argument=");
        parameters.push_str(&escaped(argument));
    }
    if !config.kernel_parameters.is_empty() {
        parameters.push(' ');
        parameters.push_str(&config.kernel_parameters);
    }
    parameters
}

/// A text as one word of the command line, as the agent's supervisor reads it: percent-encoded.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut word, byte| {
        if byte.is_ascii_graphic() && !b"%\"\\".contains(&byte) {
            word.push(char::from(byte));
        } else {
            // A string takes whatever is written.
            let _ = write!(word, "%{byte:02x}");
        }
        word
    })
}

/// QEMU's arguments.
pub fn arguments(machine: &Machine<'_>) -> Vec<OsString> {
    let config = machine.config;
    let accelerator = if machine.kvm { "kvm" } else { "tcg" };
    let processor = if machine.kvm { "host" } else { "max" };
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| {
        arguments.push(option.into());
        arguments.push(value);
    };
    // QEMU reads a doubled comma as one.
    add("-name", format!("porthole-{}", machine.name.replace(',', ",,")).into());
    // Of the chipset only what the guest needs: fewer devices, fewer drivers that look for them.
    add(
        "-machine",
        format!("q35,accel={accelerator},memory-backend=memory,sata=off,smbus=off,usb=off,vmport=off").into(),
    );
    add("-cpu", processor.into());
    add("-smp", config.vcpus.to_string().into());
    add("-m", format!("{}M", config.memory_mib).into());
    // Shared with the vhost-user devices, which read and write the guest's buffers.
    add("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", config.memory_mib).into());
    add("-kernel", config.kernel.clone().into());
    add("-initrd", config.initrd.clone().into());
    add("-append", kernel_parameters(config, machine.tsc_khz).into());
    add("-chardev", "stdio,id=console,signal=off".into());
    add("-serial", "chardev:console".into());
    add("-chardev", format!("socket,id=virtiofs,fd={}", machine.virtiofs).into());
    add("-device", format!("vhost-user-fs-pci,chardev=virtiofs,tag={SHARED_TAG},queue-size=1024").into());
    match machine.vsock {
        VsockDevice::Kernel { descriptor, cid } => {
            add("-device", format!("vhost-vsock-pci,guest-cid={cid},vhostfd={descriptor}").into());
        }
        VsockDevice::User { connection } => {
            add("-chardev", format!("socket,id=vsock,fd={}", connection.as_raw_fd()).into());
            add("-device", "vhost-user-vsock-pci,chardev=vsock".into());
        }
    }
    add("-netdev", format!("tap,id=net,fd={}", machine.tap).into());
    // No boot ROM: the firmware would spend its time on it.
    add("-device", "virtio-net-pci,netdev=net,romfile=".into());
    // QEMU's own filter: no programs, no privileges, no priorities.
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    arguments
        .extend(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(OsString::from));
    arguments
}

/// The kernel's virtualisation device.
pub const KVM: &str = "/dev/kvm";

/// Whether KVM can run an ordinary guest. The device alone is not enough: nested hosts offer it without the processor's
/// virtualisation behind it, and a guest started on it hangs.
pub fn use_kvm(wanted: Accelerator) -> bool {
    match wanted {
        Accelerator::Tcg => false,
        Accelerator::Kvm => true,
        Accelerator::Auto => {
            let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let opens = std::fs::OpenOptions::new().read(true).write(true).open(KVM).is_ok();
            processor_virtualises(&cpuinfo) && opens
        }
    }
}

/// Intel's and AMD's processors have it in their flags.
fn processor_virtualises(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(vsock: &VsockDevice, kvm: bool) -> String {
        let config = Microvm { memory_mib: 300, kernel_parameters: "extra=1".into(), ..Microvm::default() };
        let tsc_khz = (!kvm).then_some(2_500_000);
        let machine = Machine { config: &config, kvm, tsc_khz, name: "s1", virtiofs: 8, vsock, tap: 9 };
        let words: Vec<String> =
            arguments(&machine).iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    fn user_device() -> VsockDevice {
        VsockDevice::User { connection: std::fs::File::open("/dev/null").expect("opened").into() }
    }

    #[test]
    fn guest_memory_is_shared_with_the_devices() {
        let line = line(&user_device(), false);
        assert!(line.contains("memory-backend-memfd,id=memory,size=300M,share=on"), "{line}");
        assert!(line.contains("memory-backend=memory") && line.contains("-m 300M"), "{line}");
    }

    #[test]
    fn the_vsock_is_what_the_host_has() {
        let user = line(&user_device(), false);
        assert!(user.contains("socket,id=vsock,fd=") && user.contains("vhost-user-vsock-pci"), "{user}");
        let kernel = line(&VsockDevice::Kernel { descriptor: 7, cid: 42 }, true);
        assert!(kernel.contains("vhost-vsock-pci,guest-cid=42,vhostfd=7"), "{kernel}");
        assert!(kernel.contains("accel=kvm") && !kernel.contains("vhost-user-vsock"), "{kernel}");
    }

    #[test]
    fn qemu_confines_itself_and_parameters_are_appended() {
        let line = line(&user_device(), false);
        assert!(
            line.contains(
                "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "
            ),
            "{line}"
        );
        assert!(line.contains("preempt=voluntary tsc_early_khz=2500000 extra=1 "), "{line}");
    }

    #[test]
    fn a_device_without_the_processors_virtualisation_is_no_kvm() {
        assert!(!processor_virtualises("flags\t\t: fpu hypervisor sse2\n"));
        assert!(processor_virtualises("flags\t\t: fpu vmx sse2\n"));
        assert!(!processor_virtualises("vmx flags\t: x\n"));
    }
}
