//! Our own layer of the image: accounts, busybox's commands, the demo's applications.

use anyhow::{Context, Result};

/// Commands that busybox is called by.
const BUSYBOX_COMMANDS: [&str; 26] = [
    "cat", "chmod", "cp", "date", "dd", "echo", "env", "false", "grep", "head", "id", "kill", "ls", "mkdir",
    "nc", "printf", "ps", "rm", "seq", "sh", "sleep", "stty", "true", "tty", "wc", "wget",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// Text files with their mode.
const FILES: [(&str, u32, &str); 15] = [
    ("etc/passwd", 0o644, PASSWD),
    ("etc/group", 0o644, GROUP),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("srv/shop.conf", 0o644, include_str!("../../applications/shop.conf")),
    ("srv/blog.conf", 0o644, include_str!("../../applications/blog.conf")),
    ("srv/service.py", 0o644, include_str!("../../applications/service.py")),
    ("srv/catalog.py", 0o644, include_str!("../../applications/catalog.py")),
    ("srv/stock.py", 0o644, include_str!("../../applications/stock.py")),
    ("srv/five.py", 0o644, include_str!("../../applications/five.py")),
    ("srv/raw.py", 0o644, include_str!("../../applications/raw.py")),
    ("srv/orders.py", 0o644, include_str!("../../applications/orders.py")),
    ("srv/broker.sh", 0o644, include_str!("../../applications/broker.sh")),
    ("srv/comments.py", 0o644, include_str!("../../applications/comments.py")),
    ("srv/mariadb.sh", 0o644, include_str!("../../applications/mariadb.sh")),
    ("srv/postgresql.sh", 0o644, include_str!("../../applications/postgresql.sh")),
];

/// Directories that the applications write to, or that hold a file above.
const DIRECTORIES: [&str; 5] = ["etc", "srv", "run", "var/log/nginx", "var/lib/nginx"];

/// The layer, the same bytes every time.
pub fn layer() -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for path in DIRECTORIES {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        layer.append_data(&mut header, format!("{path}/"), std::io::empty()).context("pack a directory")?;
    }
    for (path, mode, text) in FILES {
        let mut header = header(tar::EntryType::Regular, mode, text.len() as u64);
        layer.append_data(&mut header, path, text.as_bytes()).with_context(|| format!("pack {path}"))?;
    }
    for name in BUSYBOX_COMMANDS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer.append_link(&mut header, format!("bin/{name}"), "/bin/busybox").context("pack a link")?;
    }
    layer.into_inner().context("finish the layer")
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_reproducible_and_complete() {
        let (first, second) = (layer().expect("layer"), layer().expect("layer"));
        assert_eq!(first, second);
        let mut archive = tar::Archive::new(first.as_slice());
        let names =
            archive.entries().expect("entries").map(|e| e.expect("entry").path().expect("path").into_owned());
        assert_eq!(names.count(), FILES.len() + DIRECTORIES.len() + BUSYBOX_COMMANDS.len());
    }
}
