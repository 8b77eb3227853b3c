//! AMX: a matrix unit that multiplies tiles of bytes, sixteen columns to a tile, for the many rows of a
//! prefill step. What it adds up is scaled by AVX-512, whose tiles also do the few rows of a decode step.
//!
//! The instructions have no stable intrinsics, so a tile is written as assembly, from its first block to its
//! last: nothing stays in the matrix unit's registers outside it. The vector instructions between are in it, too,
//! since the compiler would move sums that 24 registers hold through memory.
//!
//! A block's sums leave the matrix unit through memory, and each takes three instructions to be scaled. That, and
//! not the multiplications, is what blocks of 32 take their time for; those of 16 are faster without the unit.

#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "instructions that have one condition, the caller's promise"
)]

use std::arch::asm;
use std::arch::x86_64::{
    _mm_loadu_si128, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_load_si512, _mm512_mullo_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_srli_epi16,
    _mm512_store_ps, _mm512_store_si512, _mm512_sub_epi8, _mm512_sub_epi32, _mm512_xor_si512,
};
use std::mem::MaybeUninit;

use super::Tiles;
use super::avx512::Avx512;
use crate::form::{COLUMNS, Form};
use crate::tile::{Packed, Work};

/// AMX's tiles of bytes beside the instructions of [`Avx512`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx;

/// Rows of a tile. With two tiles of columns their results are 24 vectors, which leaves registers to scale sums.
const ROWS: usize = 12;
/// Tiles of columns beside each other.
const WIDE: usize = 2;
/// The longest row of a tile, in bytes.
const DEEPEST: usize = 64;

/// Tiles are set up while this lives, on the thread that made it.
pub(crate) struct Configured;

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: whoever made it had the instructions. The system then no longer saves the tiles.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// What `ldtilecfg` loads: the sizes of the tiles.
#[repr(C, align(64))]
struct Sizes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Bytes of a block that one instruction multiplies.
fn depth(form: &Form) -> usize {
    form.block.min(DEEPEST)
}

impl Tiles for Amx {
    type Isa = Avx512;
    type Setup = Configured;
    const HEIGHT: usize = ROWS;
    const BY_ROW: bool = true;
    const WIDE: usize = WIDE;

    fn direct_rows(form: &Form) -> usize {
        // Longer blocks have fewer sums to scale, which is what the matrix unit waits for.
        if form.block <= 32 { 32 } else { 12 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "sizes of tiles")]
    unsafe fn set_up(form: &Form) -> Configured {
        let mut sizes = Sizes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let depth = depth(form);
        let (sums, values, weights) = ((ROWS, 64), (ROWS, depth), (depth / 4, 64));
        for (tile, (rows, bytes)) in [sums, sums, values, weights, weights].into_iter().enumerate()
        {
            sizes.rows[tile] = rows as u8;
            sizes.row_bytes[tile] = bytes as u16;
        }
        // SAFETY: sizes that tiles have; the caller promises the instruction.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const sizes, options(nostack, preserves_flags, readonly));
        }
        Configured
    }

    unsafe fn tile(form: &Form, groups: usize, work: &Work) {
        // SAFETY: the promise of this function's caller.
        unsafe { tile(form, groups, work) }
    }

    unsafe fn unpack(form: &Form, packed: Packed, blocks: usize, _vectors: usize, panel: *mut u8) {
        // SAFETY: the promise of this function's caller.
        unsafe {
            match (form.bits, form.zero_points) {
                (4, false) => unpack::<4, false>(form, packed, blocks, panel),
                (4, true) => unpack::<4, true>(form, packed, blocks, panel),
                (_, false) => unpack::<8, false>(form, packed, blocks, panel),
                (_, true) => unpack::<8, true>(form, packed, blocks, panel),
            }
        }
    }
}

/// Numbers of 32 bits: a vector for each row, for each tile of columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Vectors([[[f32; COLUMNS]; ROWS]; WIDE]);

/// What the assembly of a tile reads. It names fields by their offsets, eight bytes each.
#[repr(C)]
struct Job {
    /// 0: the panel of weights, from the first block on.
    weights: *const u8,
    /// 8: the activations, from the first block on.
    values: *const i32,
    /// 16: blocks to multiply; the assembly counts them down.
    blocks: usize,
    /// 24: instructions that multiply a block one after the other.
    runs: usize,
    /// 32: bytes of a row of activations that each of them takes.
    run_values: usize,
    /// 40: bytes of the weights that each of them takes.
    run_weights: usize,
    /// 48: bytes from a block's activations, but for those of its first row, to the next block's.
    rest: usize,
    /// 56: bytes of a block of the panel.
    panel_block: usize,
    /// 64: bytes from the first vector of columns to the second.
    second: usize,
    /// 72: the results.
    sums: *mut Vectors,
    /// 80: integer sums of a block and of the next.
    products: *mut [Vectors; 2],
}

/// Multiplies the next block. Its sums go to `fill`.
macro_rules! products {
    ($head:literal) => {
        concat!(
            "add {weights}, ",
            $head,
            "\n",
            "mov {runs}, [{job} + 24]\n",
            "tilezero tmm0\n",
            "tilezero tmm1\n",
            "3:\n",
            "tileloadd tmm2, [{values} + {row}]\n",
            "tileloadd tmm3, [{weights} + {line}]\n",
            "tdpbssd tmm0, tmm2, tmm3\n",
            "mov {scratch}, {weights}\n",
            "add {scratch}, [{job} + 64]\n",
            "tileloadd tmm4, [{scratch} + {line}]\n",
            "tdpbssd tmm1, tmm2, tmm4\n",
            "add {values}, [{job} + 32]\n",
            "add {weights}, [{job} + 40]\n",
            "dec {runs}\n",
            "jnz 3b\n",
            "mov {scratch}, 64\n",
            "tilestored [{fill} + {scratch}], tmm0\n",
            "tilestored [{fill} + {scratch} + 768], tmm1\n",
            "add {values}, [{job} + 48]\n",
        )
    };
}

/// Multiplies a tile. The sums of one block are scaled and added up while the next one is multiplied. `$zeros`
/// loads zero points, and `$first` and `$second` a row's sum with each vector of columns into zmm26.
macro_rules! multiply {
    ($job:expr, $row:expr, $head:literal, $zeros:literal, $first:literal, $second:literal) => {
        asm!(
            concat!(
                "mov {scratch}, [{job} + 72]\n",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n",
                "vmovaps zmm\\n, [{scratch} + 64 * \\n]\n",
                ".endr\n",
                "mov {weights}, [{job}]\n",
                "mov {values}, [{job} + 8]\n",
                "mov {fill}, [{job} + 80]\n",
                "lea {ready}, [{fill} + 1536]\n",
                products!($head),
                "dec qword ptr [{job} + 16]\n",
                "2:\n",
                "xchg {fill}, {ready}\n",
                "mov {panel}, {weights}\n",
                "sub {panel}, [{job} + 56]\n",
                // A line of scales and one of starts are a block's end.
                "lea {tail}, [{values} - 128]\n",
                "cmp qword ptr [{job} + 16], 0\n",
                "je 4f\n",
                products!($head),
                "4:\n",
                "vmovaps zmm24, [{panel}]\n",
                $zeros,
                "add {panel}, [{job} + 64]\n",
                "vmovaps zmm25, [{panel}]\n",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11\n",
                "prefetcht0 [{values} + 64 * \\n + 512]\n",
                $first,
                "vmulps zmm27, zmm24, dword ptr [{tail} + 4 * \\n]{{1to16}}\n",
                "vfmadd231ps zmm\\n, zmm26, zmm27\n",
                ".endr\n",
                ".irp n, 12,13,14,15,16,17,18,19,20,21,22,23\n",
                $second,
                "vmulps zmm27, zmm25, dword ptr [{tail} + 4 * \\n - 48]{{1to16}}\n",
                "vfmadd231ps zmm\\n, zmm26, zmm27\n",
                ".endr\n",
                "dec qword ptr [{job} + 16]\n",
                "jns 2b\n",
                "mov {scratch}, [{job} + 72]\n",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n",
                "vmovaps [{scratch} + 64 * \\n], zmm\\n\n",
                ".endr\n",
            ),
            job = in(reg) $job,
            row = in(reg) $row,
            line = in(reg) WIDE * 64,
            weights = out(reg) _, values = out(reg) _, panel = out(reg) _, tail = out(reg) _,
            fill = out(reg) _, ready = out(reg) _, runs = out(reg) _, scratch = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            options(nostack)
        )
    };
}

/// As [`crate::tile::tile`], of [`ROWS`] rows and `groups` groups of columns: a single one is multiplied twice,
/// and once to no avail.
///
/// # Safety
/// As there, and tiles are set up.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile(form: &Form, groups: usize, work: &Work) {
    let zeros = form.bits == 8 && form.zero_points;
    let row_bytes = form.block;
    let mut sums = Vectors([[[0.0; COLUMNS]; ROWS]; WIDE]);
    let mut products = MaybeUninit::<[Vectors; 2]>::uninit();
    let place =
        |row: usize, group: usize| work.results.wrapping_add(row * work.stride + group * COLUMNS);
    if !work.first {
        for row in 0..work.rows {
            for group in 0..groups {
                // SAFETY: results of this tile, as the caller promises.
                sums.0[group][row] = unsafe { place(row, group).cast::<[f32; COLUMNS]>().read() };
            }
        }
    }
    let mut job = Job {
        weights: work.panel,
        values: work.activations,
        blocks: work.blocks,
        runs: form.block.div_ceil(DEEPEST),
        run_values: depth(form),
        run_weights: depth(form) / 4 * WIDE * 64,
        rest: (ROWS - 1) * row_bytes + 2 * 64,
        panel_block: head(form) + form.block / 4 * WIDE * 64,
        second: (groups - 1) * 64,
        sums: &raw mut sums,
        products: products.as_mut_ptr(),
    };
    let job = &raw mut job;
    // SAFETY: tiles are set up, and the panel and the activations have so many blocks, as the caller promises.
    unsafe {
        if zeros {
            multiply!(
                job,
                row_bytes,
                "256",
                "vmovdqa32 zmm28, [{panel} + 128]
                mov {scratch}, [{job} + 64]
                vmovdqa32 zmm29, [{panel} + {scratch} + 128]\n",
                "vpbroadcastd zmm26, dword ptr [{tail} + 4 * \\n + 64]
                vpmaddwd zmm26, zmm28, zmm26
                vpaddd zmm26, zmm26, [{ready} + 64 * \\n]
                vcvtdq2ps zmm26, zmm26\n",
                "vpbroadcastd zmm26, dword ptr [{tail} + 4 * \\n + 16]
                vpmaddwd zmm26, zmm29, zmm26
                vpaddd zmm26, zmm26, [{ready} + 64 * \\n]
                vcvtdq2ps zmm26, zmm26\n"
            );
        } else {
            multiply!(
                job,
                row_bytes,
                "128",
                "",
                "vcvtdq2ps zmm26, [{ready} + 64 * \\n]\n",
                "vcvtdq2ps zmm26, [{ready} + 64 * \\n]\n"
            );
        }
    }
    for row in 0..work.rows {
        for group in 0..groups {
            // SAFETY: as above.
            unsafe { place(row, group).cast::<[f32; COLUMNS]>().write(sums.0[group][row]) };
        }
    }
}

/// Bytes of a panel's block that come before its weights: scales, and zero points that are not taken off.
fn head(form: &Form) -> usize {
    if form.bits == 8 && form.zero_points { 2 * WIDE * 64 } else { WIDE * 64 }
}

/// As [`crate::tile::unpack`], with weights as signed bytes: less their zero points, which a block of 8 bits
/// keeps beside its scales, for the difference may take nine.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<const BITS: usize, const ZEROS: bool>(
    form: &Form,
    packed: Packed,
    blocks: usize,
    panel: *mut u8,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let step = WIDE * 64;
        let Packed { mut scales, mut zeros, mut levels } = packed;
        let mut to = panel;
        for _ in 0..blocks {
            let floats = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
            _mm512_store_ps(to.cast(), floats);
            scales = scales.add(COLUMNS * 2);
            to = to.add(step);
            let mut zero = _mm512_set1_epi8(8);
            if ZEROS {
                let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros.cast()));
                zeros = zeros.add(COLUMNS);
                if BITS == 8 {
                    _mm512_store_si512(to.cast(), _mm512_sub_epi32(wide, _mm512_set1_epi32(128)));
                    to = to.add(step);
                } else {
                    zero = _mm512_mullo_epi32(wide, _mm512_set1_epi32(0x0101_0101));
                }
            }
            for _ in 0..form.block * BITS / 32 {
                let bytes = _mm512_load_si512(levels.cast());
                levels = levels.add(64);
                if BITS == 4 {
                    let halves = _mm512_set1_epi8(15);
                    let low = _mm512_and_si512(bytes, halves);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), halves);
                    _mm512_store_si512(to.cast(), _mm512_sub_epi8(low, zero));
                    _mm512_store_si512(to.add(step).cast(), _mm512_sub_epi8(high, zero));
                    to = to.add(2 * step);
                } else {
                    let signed = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
                    _mm512_store_si512(to.cast(), signed);
                    to = to.add(step);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use phi4d_isa::InstructionSet;

    use super::*;

    /// Whether this thread's tiles are set up.
    fn is_set_up() -> bool {
        let mut config = [0_u8; 64];
        // SAFETY: the tests have asked whether there are tiles; the instruction writes 64 bytes.
        unsafe {
            asm!("sttilecfg [{}]", in(reg) config.as_mut_ptr(), options(nostack, preserves_flags));
        }
        config[0] != 0
    }

    /// A thread whose tiles are set up has eight kilobytes more to be saved whenever another runs.
    #[test]
    fn tiles_are_released_on_every_way_out() {
        let form = Form { k: 64, n: 16, bits: 4, block: 32, zero_points: false };
        if !InstructionSet::Amx.is_available() {
            return;
        }
        // SAFETY: as above.
        let set_up = || unsafe { Amx::set_up(&form) };
        let ready = set_up();
        assert!(is_set_up());
        drop(ready);
        assert!(!is_set_up());
        let panicked = std::panic::catch_unwind(|| {
            let _ready = set_up();
            assert!(!is_set_up(), "a panic that is expected");
        });
        assert!(panicked.is_err() && !is_set_up());
    }

    /// What the system grants holds in a child, and a signal's handler finds the tiles as it likes and leaves
    /// them as they were.
    #[cfg(target_os = "linux")]
    #[test]
    fn forks_and_signals_change_nothing() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

        use nix::libc;

        static SIGNALS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn handler(_: libc::c_int) {
            let form = Form { k: 64, n: 16, bits: 8, block: 64, zero_points: false };
            // SAFETY: as above.
            drop(unsafe { Amx::set_up(&form) });
            SIGNALS.fetch_add(1, Ordering::Relaxed);
        }

        if !InstructionSet::Amx.is_available() {
            return;
        }
        let kernel = crate::Kernel::all()[0];
        // SAFETY: the child only multiplies, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(!kernel.is_right());
            // SAFETY: as above.
            unsafe { libc::_exit(code) };
        }
        let mut status = 1;
        // SAFETY: the child of this test; the handler calls what signals may interrupt.
        unsafe {
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            let handler = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::signal(libc::SIGUSR1, handler);
        }
        assert_eq!(status, 0);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // SAFETY: no memory is touched.
            let thread = unsafe { libc::pthread_self() };
            let ended = &ended;
            let sender = scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // SAFETY: the thread waits for this one.
                    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                }
            });
            let are_right = (0..50).all(|_| kernel.is_right());
            ended.store(true, Ordering::Relaxed);
            assert!(are_right && sender.join().is_ok());
        });
        assert!(SIGNALS.load(Ordering::Relaxed) > 100);
    }
}
