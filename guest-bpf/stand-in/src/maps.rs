//! The kinds of maps that the programs use. A value stays where it is until [`crate::machine::reset`], also when its key is
//! removed, as the kernel keeps it for the programs that have looked it up.

use std::{any::Any, borrow::Borrow, marker::PhantomData};

use crate::{bindings::BPF_NOEXIST, machine};

/// `E2BIG`: no room.
const FULL: i32 = -7;
/// `EEXIST`.
const EXISTS: i32 = -17;
/// `ENOENT`.
const MISSING: i32 = -2;

/// The bytes of a key.
fn bytes_of<K: Copy>(key: &K) -> Vec<u8> {
    // SAFETY: keys are integers, and structs of them without padding, as the kernel requires.
    unsafe { std::slice::from_raw_parts((&raw const *key).cast::<u8>(), size_of::<K>()) }.to_vec()
}

fn address<V: 'static>(value: &mut Box<dyn Any>) -> Option<*mut V> {
    value.downcast_mut::<V>().map(|value| &raw mut *value)
}

macro_rules! hash_map {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(C)]
        pub struct $name<K, V> {
            max_entries: u32,
            kinds: PhantomData<fn() -> (K, V)>,
        }

        impl<K: Copy, V: Copy + 'static> $name<K, V> {
            /// One for so many keys.
            pub const fn with_max_entries(max_entries: u32, _flags: u32) -> Self {
                Self { max_entries, kinds: PhantomData }
            }

            fn id(&self) -> usize {
                (&raw const *self).addr()
            }

            /// The value of a key.
            pub fn get_ptr(&self, key: impl Borrow<K>) -> Option<*const V> {
                self.get_ptr_mut(key).map(<*mut V>::cast_const)
            }

            /// The value of a key.
            pub fn get_ptr_mut(&self, key: impl Borrow<K>) -> Option<*mut V> {
                let key = bytes_of(key.borrow());
                machine::values(self.id(), |values| address(values.get_mut(&key)?))
            }

            /// Sets the value of a key.
            pub fn insert(
                &self,
                key: impl Borrow<K>,
                value: impl Borrow<V>,
                flags: u64,
            ) -> Result<(), i32> {
                let (key, value) = (bytes_of(key.borrow()), *value.borrow());
                machine::values(self.id(), |values| {
                    if flags == u64::from(BPF_NOEXIST) && values.contains_key(&key) {
                        return Err(EXISTS);
                    }
                    if !values.contains_key(&key) && values.len() >= self.max_entries as usize {
                        return Err(FULL);
                    }
                    if let Some(old) = values.insert(key, Box::new(value)) {
                        machine::keep_removed(old);
                    }
                    Ok(())
                })
            }

            /// Removes a key.
            pub fn remove(&self, key: impl Borrow<K>) -> Result<(), i32> {
                let key = bytes_of(key.borrow());
                let removed = machine::values(self.id(), |values| values.remove(&key));
                removed.map(machine::keep_removed).ok_or(MISSING)
            }
        }
    };
}

hash_map! {
    /// A hash table.
    HashMap
}
hash_map! {
    /// A hash table that forgets what was not used for long; not here.
    LruHashMap
}

macro_rules! array {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(C)]
        pub struct $name<V> {
            max_entries: u32,
            kinds: PhantomData<fn() -> V>,
        }

        impl<V: 'static> $name<V> {
            /// One of so many values, which are zero.
            pub const fn with_max_entries(max_entries: u32, _flags: u32) -> Self {
                Self { max_entries, kinds: PhantomData }
            }

            /// A value.
            pub fn get_ptr(&self, index: u32) -> Option<*const V> {
                self.get_ptr_mut(index).map(<*mut V>::cast_const)
            }

            /// A value.
            pub fn get_ptr_mut(&self, index: u32) -> Option<*mut V> {
                if index >= self.max_entries {
                    return None;
                }
                machine::values((&raw const *self).addr(), |values| {
                    let value = values.entry(bytes_of(&index)).or_insert_with(|| {
                        // SAFETY: values of maps are integers and arrays of them, for which all zero is valid.
                        unsafe { Box::<V>::new_zeroed().assume_init() }
                    });
                    address(value)
                })
            }
        }
    };
}

array! {
    /// An array.
    Array
}
array! {
    /// An array for each CPU.
    PerCpuArray
}

/// Programs that programs call; none here.
#[repr(C)]
pub struct ProgramArray {
    max_entries: u32,
}

impl ProgramArray {
    /// One for so many programs.
    pub const fn with_max_entries(max_entries: u32, _flags: u32) -> Self {
        Self { max_entries }
    }

    /// How many it has room for.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }
}

/// The ring buffer, which never fills.
#[repr(C)]
pub struct RingBuf {
    byte_size: u32,
}

impl RingBuf {
    /// One of so many bytes.
    pub const fn with_byte_size(byte_size: u32, _flags: u32) -> Self {
        Self { byte_size }
    }

    /// Its size, or the bytes that were not read yet: none.
    pub fn query(&self, question: u64) -> u64 {
        if question == u64::from(crate::bindings::BPF_RB_RING_SIZE) { self.byte_size.into() } else { 0 }
    }
}
