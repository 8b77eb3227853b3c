//! Permanent filters of the process's own system calls (seccomp, no_new_privs).
//!
//! Two filters. The first allows a list and answers ENOSYS to all else: that is what an old kernel says,
//! so libraries fall back to calls of the list, as glibc from `clone3`, whose flags no filter sees, to
//! `clone`. The second names what must never be done and answers EPERM. Where both refuse, the kernel
//! takes the answer of the one that came last, so it is put there last.
//!
//! Refusals are errors and do not kill: a call that a new libc tries is no attack.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::super::confine::{ConfineError, Profile};
use super::syscalls;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Holds all threads of this process, and those that come, to what `profile` needs. It can't be undone,
/// and programs that it runs are held to it, too.
///
/// # Errors
/// If the kernel can't or does not want to. The process may have no new privileges then already.
pub fn confine(profile: Profile) -> Result<(), ConfineError> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => TargetArch::x86_64,
        "aarch64" => TargetArch::aarch64,
        other => return Err(ConfineError::Unsupported(format!("none are written for {other}"))),
    };
    let allow = SeccompAction::Allow;
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    let mut programs = Vec::new();
    if let Some(allowed) = allowed(profile) {
        programs.push(program(allowed, errno(libc::ENOSYS), allow.clone(), arch)?);
    }
    let refused = refused(profile).map_err(|error| refused_by_kernel(&error))?;
    programs.push(program(refused, allow, errno(libc::EPERM), arch)?);
    for program in &programs {
        seccompiler::apply_filter_all_threads(program).map_err(|error| match error {
            Error::Prctl(source) | Error::Seccomp(source)
                if matches!(source.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                ConfineError::Unsupported(source.to_string())
            }
            error => refused_by_kernel(&error),
        })?;
    }
    Ok(())
}

fn refused_by_kernel(error: &dyn std::error::Error) -> ConfineError {
    ConfineError::Refused(error.to_string())
}

fn program(
    rules: Rules,
    else_do: SeccompAction,
    on_match: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, ConfineError> {
    let filter = SeccompFilter::new(rules, else_do, on_match, arch);
    let program = filter.and_then(TryInto::try_into);
    program.map_err(|error: seccompiler::BackendError| refused_by_kernel(&error))
}

/// The calls that the first filter allows, if there is one.
fn allowed(profile: Profile) -> Option<Rules> {
    let lists: &[&[libc::c_long]] = match profile {
        Profile::Daemon => {
            &[syscalls::COMPUTE, syscalls::FILES, syscalls::SOCKETS, syscalls::LEGACY_FILES]
        }
        Profile::Worker => &[syscalls::WORKER],
        Profile::DaemonWithDevice => return None,
    };
    let all = lists.iter().flat_map(|list| list.iter());
    Some(all.map(|number| (*number, Vec::new())).collect())
}

/// The calls that the second filter refuses, by their arguments or whatever these are.
fn refused(profile: Profile) -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    use SeccompCmpOp::{MaskedEq, Ne};
    let is = |argument, operator, value: i64| {
        SeccompCondition::new(argument, Dword, operator, value.cast_unsigned())
    };
    let none_of = |argument, values: &[i64]| {
        let conditions: Result<Vec<_>, _> =
            values.iter().map(|value| is(argument, Ne, *value)).collect();
        SeccompRule::new(conditions?)
    };
    let has_all = |argument, bits: i64| {
        SeccompRule::new(vec![is(argument, MaskedEq(bits.cast_unsigned()), bits)?])
    };
    let mut rules: Rules = syscalls::NEVER.iter().map(|number| (*number, Vec::new())).collect();

    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(i64::from);
    rules.insert(libc::SYS_socket, vec![none_of(0, &families)?]);
    // What opens a namespace, by the flags.
    let mut clones: Vec<SeccompRule> = syscalls::NEW_NAMESPACE
        .iter()
        .map(|flag| has_all(0, i64::from(*flag)))
        .collect::<Result<_, _>>()?;
    if profile != Profile::DaemonWithDevice {
        // Code comes from files that nobody can write to meanwhile: memory is not writable and
        // executable, at once or one after the other.
        let executable = i64::from(libc::PROT_EXEC);
        rules.insert(libc::SYS_mmap, vec![has_all(2, i64::from(libc::PROT_WRITE) | executable)?]);
        rules.insert(libc::SYS_mprotect, vec![has_all(2, executable)?]);
        // Questions about descriptors and terminals, none that acts, such as typing into one.
        let asked = [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONBIO, libc::FIONREAD];
        rules.insert(libc::SYS_ioctl, vec![none_of(1, &asked.map(ioctl_number))?]);
        let options =
            [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_SET_PDEATHSIG];
        rules.insert(libc::SYS_prctl, vec![none_of(0, &options.map(i64::from))?]);
        // Limits of its own only.
        rules.insert(libc::SYS_prlimit64, vec![none_of(0, &[0])?]);
    }
    match profile {
        // Threads only: with no program to run there is no use for a process.
        Profile::Daemon => {
            clones.push(SeccompRule::new(vec![is(0, MaskedEq(CLONE_THREAD), 0)?])?);
        }
        // Processes only: a fork has one thread, and so has what is forked.
        Profile::Worker => clones.push(has_all(0, i64::from(libc::CLONE_THREAD))?),
        Profile::DaemonWithDevice => {}
    }
    rules.insert(libc::SYS_clone, clones);
    Ok(rules)
}

const CLONE_THREAD: u64 = libc::CLONE_THREAD.unsigned_abs() as u64;

/// Requests are of another type with each libc.
fn ioctl_number(request: libc::Ioctl) -> i64 {
    i64::try_from(request).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
