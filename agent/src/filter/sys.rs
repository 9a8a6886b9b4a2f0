//! The system call that installs a filter.
#![expect(unsafe_code, reason = "the kernel takes the filter by a pointer")]

use std::io;

/// Installs a seccomp filter for this process and all that it makes.
pub(crate) fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which lives across the call and
    // has the length that is given; it does not write to it.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    if installed < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
