//! The memory of the KV cache, where the session wants it: the host's or a device's.

mod device;
mod host;
mod layout;
#[cfg(test)]
mod layout_tests;
mod movers;

use std::io::{self, Read, Write};

use super::binding::Bindings;

pub(super) use device::DeviceCache;
pub(super) use host::HostCache;
pub(super) use movers::{Movers, NewSession, Place, Whole};

/// The KV cache's memory. Methods are those of [`super::Runner`].
#[derive(Debug)]
pub(super) enum Cache {
    Host(HostCache),
    Device(Box<DeviceCache>),
}

impl Cache {
    pub(super) fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        match self {
            Self::Host(cache) => cache.swap(slots, tokens),
            Self::Device(cache) => cache.swap(slots),
        }
    }

    pub(super) fn copy(&mut self, from: usize, to: usize, tokens: usize, bindings: &mut Bindings) {
        match self {
            Self::Host(cache) => cache.copy(from, to, tokens),
            Self::Device(cache) => cache.copy(from, to, tokens, bindings),
        }
    }

    pub(super) fn export(
        &mut self,
        slot: usize,
        tokens: usize,
        sink: &mut dyn Write,
        bindings: &mut Bindings,
    ) -> io::Result<()> {
        match self {
            Self::Host(cache) => cache.export(slot, tokens, sink),
            Self::Device(cache) => cache.export(slot, tokens, sink, bindings),
        }
    }

    pub(super) fn import(
        &mut self,
        slot: usize,
        tokens: usize,
        source: &mut dyn Read,
        bindings: &mut Bindings,
    ) -> io::Result<()> {
        match self {
            Self::Host(cache) => cache.import(slot, tokens, source),
            Self::Device(cache) => cache.import(slot, tokens, source, bindings),
        }
    }

    pub(super) fn release(&mut self, slot: usize, keep: usize) {
        match self {
            Self::Host(cache) => cache.release(slot, keep),
            Self::Device(cache) => cache.release(slot, keep),
        }
    }
}
