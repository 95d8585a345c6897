//! Hashes the sources of everything that programs and agent share, for `layout`.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Folders of shared sources, from this package's.
const SHARED: [&str; 4] = ["src", "../libs/framing/src", "../libs/histogram/src", "../libs/protocol/src"];

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for folder in SHARED {
        let folder = package.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, &mut files)?;
    }
    files.sort();
    // FNV-1a.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let text = fs::read_to_string(&file)?;
        // Comments are left out: they do not change what is shared.
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        for byte in code.flat_map(str::bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=PORTHOLE_LAYOUT={hash}");
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
