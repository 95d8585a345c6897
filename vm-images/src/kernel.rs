//! The kernel out of its wrapper.
//!
//! A bzImage decompresses itself, in the guest: under emulation that takes a good part of the boot. So the ELF image
//! is taken out here, once, and QEMU starts it at its PVH entry. A compression that is not known here is no error: the
//! bzImage boots too.
//!
//! Format: the kernel's `Documentation/x86/boot.rst` (`setup_sects` at 0x1f1, the payload's offset and length at 0x248
//! and 0x24c, counted from the end of the setup sectors), and LZ4's legacy frame (magic 0x184C2102, then blocks of at
//! most 8 MiB decompressed, each with its compressed size in front).

/// What boots.
#[derive(Debug)]
pub struct BootImage {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What it is, for people.
    pub form: &'static str,
}

const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Decompressed size of all blocks but the last.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Bound on the decompressed kernel; Debian's is 51 MiB.
const MAX_KERNEL_BYTES: usize = 256 << 20;

/// Makes the fastest bootable image out of a bzImage.
pub fn boot_image(bzimage: &[u8]) -> BootImage {
    match payload(bzimage).and_then(decompress_lz4_legacy).filter(|elf| elf.starts_with(b"\x7fELF")) {
        Some(bytes) => BootImage { bytes, form: "ELF image" },
        None => BootImage { bytes: bzimage.to_vec(), form: "bzImage" },
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<usize> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
}

/// The compressed kernel inside a bzImage.
fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match *bzimage.get(0x1f1)? {
        0 => 4, // The boot protocol's default.
        sectors => usize::from(sectors),
    };
    let start = ((setup_sectors + 1) * 512).checked_add(word(bzimage, 0x248)?)?;
    bzimage.get(start..start.checked_add(word(bzimage, 0x24c)?)?)
}

fn decompress_lz4_legacy(payload: &[u8]) -> Option<Vec<u8>> {
    let mut rest = payload.strip_prefix(&LZ4_LEGACY_MAGIC)?;
    let mut out = Vec::new();
    // The kernel's build appends the decompressed size, four bytes, behind the last block.
    while rest.len() > 4 {
        let size = word(rest, 0)?;
        let block = rest.get(4..size.checked_add(4)?)?;
        rest = &rest[size + 4..];
        let block = lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK).ok()?;
        out.extend_from_slice(&block);
        if out.len() > MAX_KERNEL_BYTES {
            return None;
        }
    }
    (word(rest, 0)? == out.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(kernel: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(kernel);
        let mut payload = LZ4_LEGACY_MAGIC.to_vec();
        payload.extend_from_slice(&u32::try_from(block.len()).expect("small").to_le_bytes());
        payload.extend_from_slice(&block);
        payload.extend_from_slice(&u32::try_from(kernel.len()).expect("small").to_le_bytes());
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
        image.extend_from_slice(&payload);
        image
    }

    #[test]
    fn the_elf_image_comes_out() {
        let kernel = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let image = boot_image(&bzimage(&kernel));
        assert_eq!(image.form, "ELF image");
        assert_eq!(image.bytes, kernel);
    }

    #[test]
    fn what_cannot_be_extracted_boots_as_it_is() {
        let mut image = bzimage(b"\x7fELF kernel");
        let payload = image.len() - 20;
        image.truncate(payload);
        assert_eq!(boot_image(&image).bytes, image);
        assert_eq!(boot_image(b"").form, "bzImage");
        assert_eq!(boot_image(&bzimage(b"no ELF")).form, "bzImage");
    }
}
