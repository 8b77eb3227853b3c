//! Times the matmul kernel by the processor time of one thread.
//!
//! `cargo bench -p phi4d-matmul`; arguments: `K,N` for other shapes, `rows=1,8`, `isa=avx2`,
//! `bits=8`, `block=128`, `zeros`. Figures are the fastest of several runs: other work on the machine
//! only makes them slower.

#![expect(
    unsafe_code,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a benchmark: it prints, needs processor features, and has nothing better to do than stop"
)]

#[cfg(unix)]
fn main() {
    unix::main();
}

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
mod unix {
    use std::hint::black_box;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
    use nix::time::{ClockId, clock_gettime};
    use phi4d_matmul::{
        Activations, Form, Kernel, Line, Operands, Results, Weights, multiply, pack, round,
    };

    /// Seconds of processor time that this thread has used.
    fn time() -> f64 {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
        time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9
    }

    /// Seconds of the fastest of many runs.
    fn fastest(mut work: impl FnMut()) -> f64 {
        let began = time();
        let (mut fastest, mut runs) = (f64::MAX, 0);
        while runs < 3 || (time() - began < 0.5 && runs < 1000) {
            let start = time();
            work();
            fastest = fastest.min(time() - start);
            runs += 1;
        }
        fastest
    }

    /// Lines in huge pages or in small ones.
    fn lines(count: usize, huge: bool) -> &'static mut [Line] {
        const PAGE: usize = 2 << 20;
        let bytes = count * size_of::<Line>() + PAGE;
        let length = NonZeroUsize::new(bytes).expect("some bytes");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory.
        let start = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE) };
        let start = start.expect("memory").as_ptr();
        let start =
            NonNull::new(start.wrapping_byte_add(start.align_offset(PAGE))).expect("memory");
        let advice = if huge { MmapAdvise::MADV_HUGEPAGE } else { MmapAdvise::MADV_NOHUGEPAGE };
        // SAFETY: within the mapping.
        unsafe { madvise(start, bytes - PAGE, advice) }.expect("advice");
        // SAFETY: within the mapping, aligned, of zeros, and this call's alone.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), count) }
    }

    /// Multiply-adds in a nanosecond by instructions on registers alone.
    #[cfg(target_arch = "x86_64")]
    fn peak() -> f64 {
        use std::arch::x86_64::{
            __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
        };
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn run(rounds: usize) -> __m512i {
            let (a, b) = (black_box(_mm512_set1_epi32(1)), black_box(_mm512_set1_epi32(2)));
            let mut sums = [_mm512_setzero_si512(); 16];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, a, b);
                }
            }
            sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b))
        }
        if Kernel::all().iter().all(|kernel| kernel.name() != "avx512vnni") {
            return f64::NAN;
        }
        let rounds = 2_000_000;
        let seconds = fastest(|| {
            // SAFETY: just checked.
            black_box(unsafe { run(rounds) });
        });
        (rounds * 16 * 64) as f64 / seconds / 1e9
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn peak() -> f64 {
        f64::NAN
    }

    /// Reads lines as a matmul would, without multiplying.
    #[cfg(target_arch = "x86_64")]
    fn read(lines: &[Line]) {
        use std::arch::x86_64::{
            __m512i, _mm_prefetch, _mm512_load_si512, _mm512_or_si512, _mm512_setzero_si512,
        };
        #[target_feature(enable = "avx512f")]
        fn run(lines: &[Line]) -> __m512i {
            let mut sums = [_mm512_setzero_si512(); 8];
            for lines in lines.as_chunks::<8>().0 {
                for (sum, line) in sums.iter_mut().zip(lines) {
                    let at = std::ptr::from_ref(line);
                    _mm_prefetch::<3>(at.wrapping_byte_add(4096).cast());
                    // SAFETY: an aligned line.
                    let line = unsafe { _mm512_load_si512(at.cast()) };
                    *sum = _mm512_or_si512(*sum, line);
                }
            }
            sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_or_si512(a, b))
        }
        if Kernel::all().iter().any(|kernel| kernel.name() == "avx512vnni") {
            // SAFETY: just checked.
            black_box(unsafe { run(lines) });
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn read(lines: &[Line]) {
        black_box(phi4d_matmul::bytes(lines).iter().fold(0, |sum, byte| sum ^ byte));
    }

    struct Options {
        shapes: Vec<(usize, usize)>,
        rows: Vec<usize>,
        kernels: Vec<Kernel>,
        form: Form,
    }

    fn options() -> Options {
        let form = Form { k: 0, n: 0, bits: 4, block: 32, zero_points: false };
        let mut options =
            Options { shapes: Vec::new(), rows: Vec::new(), kernels: Vec::new(), form };
        let number = |text: &str| text.parse::<usize>().expect("a number");
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                Some(("rows", rows)) => options.rows = rows.split(',').map(number).collect(),
                Some(("isa", name)) => {
                    let all = Kernel::all().into_iter();
                    options.kernels.extend(all.filter(|kernel| kernel.name() == name));
                }
                Some(("bits", bits)) => options.form.bits = number(bits),
                Some(("block", block)) => options.form.block = number(block),
                _ if argument == "zeros" => options.form.zero_points = true,
                _ => {
                    let sizes = argument.split_once(',');
                    options.shapes.extend(sizes.map(|(k, n)| (number(k), number(n))));
                }
            }
        }
        if options.shapes.is_empty() {
            options.shapes = vec![(5120, 7680), (5120, 35840), (17920, 5120)];
        }
        if options.rows.is_empty() {
            options.rows = vec![1, 4, 8, 12, 24, 120, 512];
        }
        if options.kernels.is_empty() {
            options.kernels = vec![Kernel::all()[0]];
        }
        options
    }

    pub(super) fn main() {
        let options = options();
        let peak = peak();
        println!("peak of dpbusd on registers: {peak:.0} GMAC/s");
        for &(k, n) in &options.shapes {
            let form = Form { k, n, ..options.form };
            assert!(form.fits(), "a shape that the kernel takes");
            let levels: Vec<u8> = (0..n * form.column_bytes())
                .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes()[0])
                .collect();
            let scales: Vec<f32> =
                (0..n * form.blocks()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 1000.0).collect();
            let zeros = if form.zero_points { n * form.column_zero_bytes() } else { 0 };
            let zero_points = vec![0x77; zeros];
            let weights = Weights { levels: &levels, scales: &scales, zero_points: &zero_points };
            let (huge, small) = (lines(form.lines(), true), lines(form.lines(), false));
            let factor = pack(&form, &weights, huge);
            small.copy_from_slice(huge);
            let bytes = size_of_val(huge) as f64 / 1e9;
            let rates = [&*huge, &*small].map(|lines| bytes / fastest(|| read(lines)));
            println!(
                "{k} x {n}: a plain read takes {:.1} GB/s in huge pages, {:.1} in small",
                rates[0], rates[1]
            );
            for &rows in &options.rows {
                for &kernel in &options.kernels {
                    let [[seconds, rounding], [in_small, _]] =
                        [&*huge, &*small].map(|lines| run(kernel, &form, factor, lines, rows));
                    let work = (rows * k) as f64 * n as f64 / 1e9;
                    println!(
                        "{:8} rows {rows:4}: {:7.1} GMAC/s ({:2.0}% of the peak), {:5.1} GB/s, in \
                         small pages {:5.1} GB/s; rounding {:.1}% of it",
                        kernel.name(),
                        work / seconds,
                        work / seconds / peak * 100.0,
                        bytes / seconds,
                        bytes / in_small,
                        rounding / seconds * 100.0,
                    );
                }
            }
        }
    }

    /// Seconds of one matmul, and of rounding its activations.
    fn run(kernel: Kernel, form: &Form, factor: f32, lines: &[Line], rows: usize) -> [f64; 2] {
        let values: Vec<f32> =
            (0..rows * form.k).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let mut activations = Activations::default();
        let mut results = vec![0.0; rows * form.n];
        let rounding = fastest(|| {
            activations.resize(kernel, form, rows);
            for mut tile in activations.tiles(form) {
                let values = &values[tile.rows.start * form.k..tile.rows.end * form.k];
                round(kernel, form, factor, values, &mut tile);
            }
        });
        let multiplying = fastest(|| {
            let results = Results::new(&mut results, form.n);
            let operands = Operands { form, lines, activations: &activations };
            multiply(kernel, &operands, 0..form.groups(), &results);
        });
        [multiplying, rounding]
    }
}
