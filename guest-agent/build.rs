//! Embeds the eBPF object that `PORTHOLE_BPF_OBJECT` names; without it the agent builds and says at run time that
//! it has no probes.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=PORTHOLE_BPF_OBJECT");
    let embedded = PathBuf::from(env::var("OUT_DIR")?).join("porthole.bpf.o");
    match env::var_os("PORTHOLE_BPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, &embedded)
                .map_err(|error| format!("PORTHOLE_BPF_OBJECT={}: {error}", path.display()))?;
        }
        None => fs::write(&embedded, [])?,
    }
    Ok(())
}
