// SPDX-License-Identifier: GPL-2.0

//! Fields of a module's information, which `modinfo` prints.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

/// Adds a field to the module's information, as `MODULE_INFO()` does.
///
/// The arguments are the name of the field and literals, or macros that expand to literals, whose
/// concatenation is its value.
///
/// # Examples
///
/// ```
/// use crate::abstractions::modinfo::modinfo;
///
/// modinfo!("version", "1.", stringify!(2));
/// # Ok::<(), Error>(())
/// ```
macro_rules! modinfo {
    ($name:literal, $($value:tt)*) => {
        const _: () = {
            const FIELD: &str = concat!($name, "=", $($value)*, "\0");

            // Newer versions of rustc read plain `#[used]` as `#[used(linker)]`. The field would then
            // be in a second `.modinfo` section, and modpost would not find the licence in the first.
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static BYTES: [u8; FIELD.len()] = $crate::abstractions::modinfo::bytes(FIELD);
        };
    };
}
pub(crate) use modinfo;

/// Returns the bytes of `text`, which must be `N` bytes long. For [`modinfo!`].
pub(crate) const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    match text.as_bytes().first_chunk() {
        Some(bytes) => *bytes,
        None => panic!("the text is shorter than N bytes"),
    }
}
