//! Clocks, sleeping and interval timers. Of the timers only ITIMER_REAL, which is looked at whenever the program is in the kernel.

use core::time::Duration;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::outside::Outside;
use crate::task::Alarm;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 13] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(
            nr!(clock_gettime),
            "clock_gettime",
            &[Int, Pointer],
            clock_gettime,
        ),
        call(
            nr!(clock_getres),
            "clock_getres",
            &[Int, Pointer],
            clock_getres,
        ),
        call(nr!(clock_settime), "clock_settime", &[Int, Pointer], |_| {
            Err(Errno::EPERM)
        }),
        call(
            nr!(gettimeofday),
            "gettimeofday",
            &[Pointer, Pointer],
            gettimeofday,
        ),
        call(
            nr!(settimeofday),
            "settimeofday",
            &[Pointer, Pointer],
            |_| Err(Errno::EPERM),
        ),
        call(nr!(time), "time", &[Pointer], time),
        call(nr!(times), "times", &[Pointer], times),
        call(nr!(nanosleep), "nanosleep", &[Pointer, Pointer], nanosleep),
        call(
            nr!(clock_nanosleep),
            "clock_nanosleep",
            &[Int, Hex, Pointer, Pointer],
            clock_nanosleep,
        ),
        call(nr!(alarm), "alarm", &[Size], alarm),
        call(
            nr!(setitimer),
            "setitimer",
            &[Int, Pointer, Pointer],
            setitimer,
        ),
        call(nr!(getitimer), "getitimer", &[Int, Pointer], getitimer),
        call(nr!(adjtimex), "adjtimex", &[Pointer], |_| Err(Errno::EPERM)),
    ]
}

/// A clock that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Clock {
    /// Time since 1970.
    Realtime,
    /// Time since some moment.
    Monotonic,
    /// The same, suspends included.
    Boottime,
    /// Processor time.
    Cpu,
}

impl Clock {
    fn parse(number: i32) -> Result<Self, Errno> {
        match number {
            0 | 5 | 8 => Ok(Clock::Realtime),
            1 | 4 | 6 => Ok(Clock::Monotonic),
            7 | 9 => Ok(Clock::Boottime),
            2 | 3 => Ok(Clock::Cpu),
            // A negative number names another task's CPU clock; the one that is asked for itself has all bits of its id clear.
            number if number < 0 && number >> 3 == !0 && number & 7 != 3 => Ok(Clock::Cpu),
            11 => Ok(Clock::Realtime),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The time it shows.
    pub(super) fn now(self, outside: &dyn Outside) -> Duration {
        match self {
            Clock::Realtime => outside.realtime(),
            Clock::Monotonic => outside.monotonic(),
            Clock::Boottime => outside.boottime(),
            Clock::Cpu => {
                let (user, system) = outside.cpu_time();
                user + system
            }
        }
    }
}

/// A `struct timespec` in memory.
///
/// # Errors
/// `EFAULT`: not readable. `EINVAL`: negative, or not below a second.
pub(super) fn read_timespec<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    at: VirtAddr,
) -> Result<Duration, Errno> {
    let [seconds, nanoseconds] = ctx.read_words(at)?;
    if (seconds as i64) < 0 || nanoseconds >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds, nanoseconds as u32))
}

fn write_timespec<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    at: VirtAddr,
    time: Duration,
) -> Result<(), Errno> {
    ctx.write_words(at, [time.as_secs(), time.subsec_nanos().into()])
}

/// Sleeps until a clock shows a time (`None`: without limit).
///
/// # Errors
/// `EINTR`: a signal that is not held back came first.
pub(super) fn sleep_until<E: Engine>(
    ctx: &mut SyscallContext<'_, E>,
    until: Option<(Clock, Duration)>,
) -> Result<(), Errno> {
    /// The longest sleep asked for at a time; an outside may have a limit of its own.
    const TURN: Duration = Duration::from_secs(3600);
    loop {
        if ctx.task.is_interrupted() || ctx.task.process.exit_status().is_some() {
            return Err(Errno::EINTR);
        }
        let left = match until {
            Some((clock, at)) => at.saturating_sub(clock.now(ctx.outside())),
            None => TURN,
        };
        if left.is_zero() {
            return Ok(());
        }
        let due = ctx.task.process.alarm.lock().due;
        let to_alarm = due.map_or(TURN, |due| due.saturating_sub(ctx.outside().monotonic()));
        // An early end is seen above: a signal is pending, or there is time left.
        let _ = ctx.outside().sleep(left.min(TURN).min(to_alarm));
        ctx.kernel.ring_alarm(ctx.task);
    }
}

fn clock_gettime<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let clock = Clock::parse(ctx.int(0))?;
    write_timespec(ctx, ctx.addr(1), clock.now(ctx.outside()))?;
    Ok(0)
}

fn clock_getres<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let is_coarse = matches!(ctx.int(0), 5 | 6);
    Clock::parse(ctx.int(0))?;
    let resolution = if is_coarse {
        Duration::from_millis(4)
    } else {
        Duration::from_nanos(1)
    };
    if let Some(at) = ctx.addr_opt(1) {
        write_timespec(ctx, at, resolution)?;
    }
    Ok(0)
}

fn gettimeofday<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let now = ctx.outside().realtime();
    if let Some(at) = ctx.addr_opt(0) {
        ctx.write_words(at, [now.as_secs(), now.subsec_micros().into()])?;
    }
    if let Some(at) = ctx.addr_opt(1) {
        ctx.write_u64(at, 0)?;
    }
    Ok(0)
}

fn time<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let seconds = ctx.outside().realtime().as_secs();
    if let Some(at) = ctx.addr_opt(0) {
        ctx.write_u64(at, seconds)?;
    }
    Ok(seconds)
}

/// Hundredths of a second. `clock_t`.
fn ticks(time: Duration) -> u64 {
    (time.as_millis() / 10) as u64
}

fn times<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (user, system) = ctx.outside().cpu_time();
    if let Some(at) = ctx.addr_opt(0) {
        ctx.write_words(at, [ticks(user), ticks(system), 0, 0])?;
    }
    Ok(ticks(ctx.outside().monotonic()))
}

/// Sleeps, and on a signal says how much was left.
fn sleep_for<E: Engine>(
    ctx: &mut SyscallContext<'_, E>,
    clock: Clock,
    time: Duration,
    left: Option<VirtAddr>,
) -> SyscallResult {
    let until = clock.now(ctx.outside()).saturating_add(time);
    let result = sleep_until(ctx, Some((clock, until)));
    if let (Err(Errno::EINTR), Some(at)) = (result, left) {
        write_timespec(ctx, at, until.saturating_sub(clock.now(ctx.outside())))?;
    }
    result.map(|()| 0)
}

fn nanosleep<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let time = read_timespec(ctx, ctx.addr(0))?;
    sleep_for(ctx, Clock::Monotonic, time, ctx.addr_opt(1))
}

fn clock_nanosleep<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const TIMER_ABSTIME: u32 = 1;
    let clock = Clock::parse(ctx.int(0))?;
    if ctx.int(0) == 3 || clock == Clock::Cpu && ctx.int(0) != 2 {
        return Err(Errno::EINVAL);
    }
    let time = read_timespec(ctx, ctx.addr(2))?;
    if ctx.uint(1) & TIMER_ABSTIME != 0 {
        return sleep_until(ctx, Some((clock, time))).map(|()| 0);
    }
    sleep_for(ctx, clock, time, ctx.addr_opt(3))
}

/// Sets the timer; returns what it was: time left and interval.
fn set_alarm<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    value: Duration,
    interval: Duration,
) -> (Duration, Duration) {
    let now = ctx.outside().monotonic();
    let due = if value.is_zero() {
        None
    } else {
        Some(now.saturating_add(value))
    };
    let mut alarm = ctx.task.process.alarm.lock();
    let old = core::mem::replace(&mut *alarm, Alarm { due, interval });
    (left_of(&old, now), old.interval)
}

/// Time left; at least a microsecond while it is due at all.
fn left_of(alarm: &Alarm, now: Duration) -> Duration {
    alarm.due.map_or(Duration::ZERO, |due| {
        due.saturating_sub(now).max(Duration::from_micros(1))
    })
}

fn alarm<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (left, _) = set_alarm(ctx, Duration::from_secs(ctx.uint(0).into()), Duration::ZERO);
    // Rounded to the nearest second, but never down to "none".
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() >= 500_000_000);
    Ok(if left.is_zero() { 0 } else { seconds.max(1) })
}

fn read_timeval<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    at: VirtAddr,
) -> Result<(Duration, Duration), Errno> {
    let words: [u64; 4] = ctx.read_words(at)?;
    let part = |seconds: u64, micros: u64| {
        let is_valid = (seconds as i64) >= 0 && micros < 1_000_000;
        if is_valid {
            Ok(Duration::new(seconds, micros as u32 * 1000))
        } else {
            Err(Errno::EINVAL)
        }
    };
    Ok((part(words[0], words[1])?, part(words[2], words[3])?))
}

fn write_timeval<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    at: VirtAddr,
    interval: Duration,
    value: Duration,
) -> Result<(), Errno> {
    let words = [
        interval.as_secs(),
        interval.subsec_micros().into(),
        value.as_secs(),
        value.subsec_micros().into(),
    ];
    ctx.write_words(at, words)
}

fn setitimer<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (interval, value) = match ctx.addr_opt(1) {
        Some(at) => read_timeval(ctx, at)?,
        None => (Duration::ZERO, Duration::ZERO),
    };
    match ctx.int(0) {
        0 => {}
        1 | 2 => return Err(Errno::ENOSYS),
        _ => return Err(Errno::EINVAL),
    }
    let (left, old_interval) = set_alarm(ctx, value, interval);
    if let Some(at) = ctx.addr_opt(2) {
        write_timeval(ctx, at, old_interval, left)?;
    }
    Ok(0)
}

fn getitimer<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let alarm = match ctx.int(0) {
        0 => *ctx.task.process.alarm.lock(),
        1 | 2 => Alarm::default(),
        _ => return Err(Errno::EINVAL),
    };
    write_timeval(
        ctx,
        ctx.addr(1),
        alarm.interval,
        left_of(&alarm, ctx.outside().monotonic()),
    )?;
    Ok(0)
}
