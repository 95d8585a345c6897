//! Packs layers as `docker save` does: `manifest.json`, the configuration named by its digest, and the layers
//! (moby: image/spec, "Combined Image JSON + Filesystem Changeset Format").

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn digest_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).with_context(|| format!("read {}", path.display()))? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Writes the archive of an image with two layers, first the file `base`, then the bytes `top`.
pub fn write(to: &Path, name: &str, base: &Path, top: &[u8]) -> Result<()> {
    let (base_digest, top_digest) = (digest_file(base)?, digest(top));
    let configuration = serde_json::to_vec(&json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1"],
            "Cmd": ["sh"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{base_digest}"), format!("sha256:{top_digest}")] },
    }))
    .context("encode the image's configuration")?;
    let configuration_name = format!("{}.json", digest(&configuration));
    let layers = [format!("{base_digest}/layer.tar"), format!("{top_digest}/layer.tar")];
    let manifest = serde_json::to_vec(&json!([
        { "Config": configuration_name, "RepoTags": [name], "Layers": layers }
    ]))
    .context("encode the image's manifest")?;

    let staged = to.with_extension("tar.new");
    let file = File::create(&staged).with_context(|| format!("create {}", staged.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    let base_file = File::open(base).with_context(|| format!("open {}", base.display()))?;
    let base_size = base_file.metadata().context("size of the base layer")?.len();
    append(&mut archive, "manifest.json", manifest.len() as u64, manifest.as_slice())?;
    append(&mut archive, &configuration_name, configuration.len() as u64, configuration.as_slice())?;
    append(&mut archive, &layers[0], base_size, base_file)?;
    append(&mut archive, &layers[1], top.len() as u64, top)?;
    archive.into_inner().context("finish the archive")?.flush().context("write the archive")?;
    fs::rename(&staged, to).with_context(|| format!("keep {}", to.display()))
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    size: u64,
    content: impl io::Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content).with_context(|| format!("pack {path}"))
}
