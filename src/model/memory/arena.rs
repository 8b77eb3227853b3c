//! Memory that is filled once and then only read, in huge pages where the system has them.
#![expect(unsafe_code, reason = "values lie in mapped memory")]

use std::io;

use super::{Mapping, Plain};

/// Values that were written when the memory was made.
#[derive(Debug)]
pub(crate) struct Arena {
    mapping: Mapping,
}

impl Arena {
    /// Memory for `count` values, which are 0 until `fill` writes them.
    ///
    /// # Errors
    /// If there is no memory, and those of `fill`.
    pub(crate) fn filled<T: Plain, E: From<io::Error>>(
        count: usize,
        fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<Self, E> {
        // A damaged file may name any count, and a product that wraps would be too little memory.
        let bytes = count.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory);
        let mapping = Mapping::reserve_huge(bytes.map_err(io::Error::from)?)?;
        let start = mapping.address(0, count * size_of::<T>()).cast::<T>();
        // SAFETY: so many bytes are there, aligned to 2 MiB and of zeros, which are values of `T`; nobody
        // else has them yet.
        fill(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), count) })?;
        Ok(Self { mapping })
    }

    /// `count` values from the byte `offset` on.
    ///
    /// # Panics
    /// If they are not within the memory, or not aligned.
    pub(crate) fn slice<T: Plain>(&self, offset: usize, count: usize) -> &[T] {
        let start = self.mapping.address(offset, count * size_of::<T>()).cast::<T>();
        assert!(start.is_aligned());
        // SAFETY: within the mapping and aligned; nobody writes to it after `filled`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_in_is_read() {
        let fill = |values: &mut [i32]| {
            assert!(values.iter().all(|value| *value == 0));
            (0..).zip(values).for_each(|(index, value)| *value = index);
            Ok::<_, io::Error>(())
        };
        let arena = Arena::filled(1000, fill).unwrap();
        assert_eq!(arena.slice::<i32>(996 * 4, 4), [996, 997, 998, 999]);
        let error = Arena::filled(1, |_: &mut [u8]| Err(io::Error::from(io::ErrorKind::Other)));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::Other);
    }
}
