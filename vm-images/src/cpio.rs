//! The archive format of an initrd: cpio "newc", as in the kernel's `Documentation/driver-api/early-userspace/
//! buffer-format.rst`. Entries are sorted by name and carry no times and no owners, so that the same files give the
//! same bytes.

use std::collections::BTreeMap;

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: String },
    Device { mode: u32, major: u32, minor: u32 },
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Entries end on multiples of this many bytes.
const ALIGNMENT: usize = 4;

/// An archive under construction.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a directory, and its parents where they are missing. Paths have no leading slash.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        self.entries.entry(path.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
    }

    /// Adds a file with the given permission bits.
    pub fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { mode, data });
    }

    /// Adds a symbolic link.
    pub fn symbolic_link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Device { mode, major, minor });
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    /// The archive's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        // Names sort parents before children, which is the order in which the kernel needs them.
        for (inode, (name, entry)) in (1u32..).zip(&self.entries) {
            let (mode, major, minor, data): (u32, u32, u32, &[u8]) = match entry {
                Entry::Directory { mode } => (S_IFDIR | mode, 0, 0, &[]),
                Entry::File { mode, data } => (S_IFREG | mode, 0, 0, data),
                Entry::Link { target } => (S_IFLNK | 0o777, 0, 0, target.as_bytes()),
                Entry::Device { mode, major, minor } => (S_IFCHR | mode, *major, *minor, &[]),
            };
            append(&mut out, name, inode, mode, (major, minor), data);
        }
        append(&mut out, TRAILER, 0, 0, (0, 0), &[]);
        out
    }
}

fn append(out: &mut Vec<u8>, name: &str, inode: u32, mode: u32, device: (u32, u32), data: &[u8]) {
    let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
    let size = u32::try_from(data.len()).expect("an initrd's file is far below 4 GiB");
    let name_size = u32::try_from(name.len() + 1).expect("names are short");
    // Magic, then: inode, mode, uid, gid, links, mtime, size, device, special device, name size, checksum.
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(reversed: bool) -> Vec<u8> {
        let mut files = vec![("init", 0o755, b"#!".to_vec()), ("modules/a.ko", 0o644, vec![1, 2, 3, 4, 5])];
        if reversed {
            files.reverse();
        }
        let mut archive = Archive::default();
        for (path, mode, data) in files {
            archive.file(path, mode, data);
        }
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.into_bytes()
    }

    #[test]
    fn the_order_of_insertion_does_not_show() {
        assert_eq!(sample(false), sample(true));
    }

    #[test]
    fn headers_are_as_the_format_says() {
        let bytes = sample(false);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert!(text.starts_with("070701"), "magic");
        let init = text.find("init\0").expect("entry");
        let header = &text[init - 110..init];
        assert_eq!(&header[14..22], "000081ed", "a regular file with mode 755");
        assert_eq!(&header[46..54], "00000000", "no time");
        assert_eq!(&header[54..62], "00000002", "its size");
        assert!(text.contains("TRAILER!!!\0"));
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let bytes = sample(false);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.find("modules\0").expect("directory") < text.find("modules/a.ko\0").expect("file"));
    }
}
