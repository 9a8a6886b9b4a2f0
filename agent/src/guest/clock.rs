//! Time that counts suspend, and the one timer of the loop.

use std::os::fd::OwnedFd;

use rustix::io::Result;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Milliseconds since boot.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Milliseconds since the epoch.
pub(super) fn wall_ms() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A timer descriptor that fires at a moment of [`now_ms`].
#[derive(Debug)]
pub(super) struct Timer {
    pub(super) fd: OwnedFd,
    set: Option<u64>,
}

impl Timer {
    pub(super) fn new() -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        // Relative times are set, so a clock without suspend is a usable second choice.
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)
            .or_else(|_| timerfd_create(TimerfdClockId::Monotonic, flags))?;
        Ok(Self { fd, set: None })
    }

    /// Fires at `at`, or never.
    pub(super) fn arm(&mut self, at: Option<u64>) {
        if at == self.set {
            return;
        }
        self.set = at;
        // Zero would disarm it; a moment in the past fires at once.
        let wait = at.map_or(0, |at| at.saturating_sub(now_ms()).max(1));
        let spec = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(wait / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(wait % 1000).unwrap_or(0) * 1_000_000,
            },
        };
        let _ = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec);
    }

    /// Takes the event; the next [`Timer::arm`] sets it anew.
    pub(super) fn fired(&mut self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.set = None;
    }
}
