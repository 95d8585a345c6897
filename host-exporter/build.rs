//! Embeds the dashboards' bundle, which `cargo xtask build` makes from `web/` and `PORTHOLE_WEB_BUNDLE` names; without it the
//! exporter builds and serves a page that describes how to make it.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    hash::{Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PORTHOLE_WEB_BUNDLE");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut table = String::new();
    if let Some(bundle) = env::var_os("PORTHOLE_WEB_BUNDLE").filter(|path| !path.is_empty()) {
        let bundle = PathBuf::from(bundle);
        println!("cargo::rerun-if-changed={}", bundle.display());
        let files =
            files(&bundle).map_err(|error| format!("PORTHOLE_WEB_BUNDLE={}: {error}", bundle.display()))?;
        for (at, path) in files.iter().enumerate() {
            let bytes = fs::read(path)?;
            // Copies: the bundle can change while the program is compiled.
            let [plain, compressed] = ["plain", "gz"].map(|ending| out.join(format!("{at}.{ending}")));
            fs::write(&plain, &bytes)?;
            fs::write(&compressed, gzip(&bytes)?)?;
            let name = path.file_name().and_then(|name| name.to_str()).ok_or("a name that is no text")?;
            let media_type =
                media_type(path).ok_or_else(|| format!("{}: of no known type", path.display()))?;
            let [plain, compressed] =
                [&plain, &compressed].map(|path| path.to_str().ok_or("a path that is no text"));
            writeln!(
                table,
                "Asset {{ name: {name:?}, media_type: {media_type:?}, etag: \"\\\"{:016x}\\\"\", \
                 plain: include_bytes!({:?}), gzip: include_bytes!({:?}) }},",
                digest(&bytes),
                plain?,
                compressed?,
            )?;
        }
    }
    fs::write(out.join("assets.rs"), format!("&[{table}]"))?;
    Ok(())
}

/// The files of the bundle, sorted; it has no folders.
fn files(bundle: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(bundle)?.map(|entry| fs::canonicalize(entry?.path()));
    let mut files = entries.collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn media_type(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// Without a time in its header, so that the same bundle gives the same program.
fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Distinguishes one version of a file from another.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
