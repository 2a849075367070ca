//! Loop devices: squashfs wants a block device (loop(4)).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error};

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::c_int = 0x4C82;
const LOOP_CONFIGURE: libc::c_int = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` of linux/loop.h: file, block size, `struct loop_info64`, eight reserved words.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_encrypt_key_size`: 5 × 64 bit and 3 × 32 bit, all zero here.
    info: [u32; 13],
    flags: u32,
    /// `lo_file_name`, `lo_crypt_name`, `lo_encrypt_key` and `lo_init`.
    names: [u8; 64 + 64 + 32 + 16],
    reserved: [u64; 8],
}

/// Ties `file` to a free loop device, read only, until it is unmounted.
pub fn attach(file: &Path) -> Result<PathBuf, Error> {
    let control = File::open("/dev/loop-control").doing("cannot open /dev/loop-control")?;
    // SAFETY: the request takes no argument and returns a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    if number < 0 {
        return Err(std::io::Error::last_os_error()).doing("no free loop device");
    }
    let device = PathBuf::from(format!("/dev/loop{number}"));
    let backing = File::open(file).doing("cannot open a layer")?;
    let node = OpenOptions::new().read(true).open(&device).doing("cannot open a loop device")?;
    let config = LoopConfig {
        fd: backing.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: [0; 13],
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        names: [0; 176],
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `struct loop_config`, whose layout the type has.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).doing(format_args!("cannot attach {}", file.display()));
    }
    // The device lives as long as something holds it open; the mount takes over from here.
    std::mem::forget(node);
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_kernels_size() {
        assert_eq!(std::mem::size_of::<LoopConfig>(), 304);
    }
}
