//! Sets for which machine's kernel the programs are built: the one that builds, unless `PORTHOLE_BPF_ARCH`
//! names another.

fn main() {
    println!("cargo::rerun-if-env-changed=PORTHOLE_BPF_ARCH");
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\", \"aarch64\"))");
    let arch = std::env::var("PORTHOLE_BPF_ARCH").unwrap_or_else(|_| {
        let host = std::env::var("HOST").unwrap_or_default();
        host.split('-').next().unwrap_or_default().to_owned()
    });
    assert!(["x86_64", "aarch64"].contains(&arch.as_str()), "no capture programs for architecture `{arch}`");
    println!("cargo::rustc-cfg=bpf_target_arch=\"{arch}\"");
}
