//! The kernel against a plain definition, and its instruction sets against each other.

use proptest::prelude::*;

use super::*;

fn fastest() -> Kernel {
    Kernel::all()[0]
}

/// A matmul: weights of a form, and rows of activations.
#[derive(Debug)]
struct Case {
    form: Form,
    levels: Vec<u8>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    activations: Vec<f32>,
}

fn case(form: Form, rows: usize, size: f32, seed: u64) -> Case {
    let mut state = seed | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    let zeros = if form.zero_points { form.n * form.column_zero_bytes() } else { 0 };
    Case {
        form,
        levels: (0..form.n * form.column_bytes()).map(|_| random()).collect(),
        scales: (0..form.n * form.blocks())
            .map(|_| size * (f32::from(random()) / 128.0 - 1.0))
            .collect(),
        zero_points: (0..zeros).map(|_| random()).collect(),
        // Some blocks have one value of the greatest size throughout, so sums are the largest there are.
        activations: (0..rows * form.k)
            .map(|index| match index / form.block % 3 {
                0 => {
                    if random() < 128 {
                        -2.5
                    } else {
                        2.5
                    }
                }
                _ => f32::from(random()) / 50.0 - 2.5,
            })
            .collect(),
    }
}

/// With shares of so many groups, one after the other.
fn run(kernel: Kernel, case: &Case, activations: &[f32], share: usize) -> Vec<f32> {
    run_by(kernel, case, activations, share, false)
}

/// As [`run`], each share on a thread of its own if `on_threads`.
fn run_by(
    kernel: Kernel,
    case: &Case,
    activations: &[f32],
    share: usize,
    on_threads: bool,
) -> Vec<f32> {
    let form = &case.form;
    let weights =
        Weights { levels: &case.levels, scales: &case.scales, zero_points: &case.zero_points };
    let mut lines = vec![Line([0; 64]); form.lines()];
    let factor = pack(form, &weights, &mut lines);
    let mut rounded = Activations::default();
    rounded.resize(kernel, form, activations.len() / form.k);
    for mut tile in rounded.tiles(form) {
        let rows = &activations[tile.rows.start * form.k..tile.rows.end * form.k];
        round(kernel, form, factor, rows, &mut tile);
    }
    let mut results = vec![f32::NAN; activations.len() / form.k * form.n];
    let out = Results::new(&mut results, form.n);
    let operands = Operands { form, lines: &lines, activations: &rounded };
    std::thread::scope(|scope| {
        for first in (0..form.groups()).step_by(share) {
            let groups = first..(first + share).min(form.groups());
            let work = || multiply(kernel, &operands, groups, &out);
            if on_threads {
                scope.spawn(work);
            } else {
                work();
            }
        }
    });
    results
}

/// Weight `index` of a column, without its zero point.
fn level(case: &Case, column: usize, index: usize) -> f64 {
    let Form { bits, block, .. } = case.form;
    let place = column * case.form.column_bytes();
    let middle = if bits == 4 { 8 } else { 128 };
    let zeros = case.form.column_zero_bytes() * column;
    let nibble = |bytes: &[u8], at: usize| bytes[at / 2] >> (at % 2 * 4) & 15;
    let (level, zero) = match bits {
        4 => (
            nibble(&case.levels[place..], index),
            case.zero_points
                .get(zeros..)
                .filter(|zeros| !zeros.is_empty())
                .map_or(middle, |zeros| nibble(zeros, index / block)),
        ),
        _ => (
            case.levels[place + index],
            case.zero_points.get(zeros + index / block).copied().unwrap_or(middle),
        ),
    };
    f64::from(level) - f64::from(zero)
}

/// The same in double precision, activations rounded as the kernel does.
fn reference(case: &Case) -> Vec<f64> {
    let Form { k, n, block, .. } = case.form;
    let mut results = Vec::new();
    for row in case.activations.chunks(k) {
        for column in 0..n {
            let mut sum = 0.0;
            for (index, values) in row.chunks(block).enumerate() {
                let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                if most == 0.0 {
                    continue;
                }
                let scale = case.scales[column * case.form.blocks() + index];
                for (at, value) in values.iter().enumerate() {
                    let rounded = (value * (127.0 / most)).round_ties_even() * (most / 127.0);
                    sum += level(case, column, index * block + at)
                        * f64::from(scale)
                        * f64::from(rounded);
                }
            }
            results.push(sum);
        }
    }
    results
}

/// Any form, of a K that need not be whole blocks.
fn forms() -> impl Strategy<Value = Form> {
    let sizes = (1_usize..700, 1_usize..8, prop_oneof![Just(4_usize), Just(8)]);
    let block = prop_oneof![Just(16_usize), Just(32), Just(64), Just(128), Just(256)];
    (sizes, block, any::<bool>()).prop_map(|((k, groups, bits), block, zero_points)| Form {
        k,
        n: groups * COLUMNS,
        bits,
        block,
        zero_points,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equals_the_reference_whatever_the_form_and_the_size_of_the_scales(
        form in forms(), rows in 1_usize..30, exponent in -30_i32..20, share in 1_usize..6, seed: u64,
    ) {
        let case = case(form, rows, 2_f32.powi(exponent), seed);
        let exact = reference(&case);
        let most = exact.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let own = run(fastest(), &case, &case.activations, share);
        for (own, exact) in own.iter().zip(exact) {
            // Scales are rounded to half precision.
            prop_assert!((f64::from(*own) - exact).abs() < 1e-3 * most, "{own} {exact}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits(
        form in forms(), rows in 1_usize..50, share in 1_usize..6, seed: u64,
    ) {
        let case = case(form, rows, 0.01, seed);
        let bits = |kernel| -> Vec<u32> {
            run(kernel, &case, &case.activations, share).into_iter().map(f32::to_bits).collect()
        };
        let all = Kernel::all();
        let (scalar, others) = all.split_last().unwrap();
        prop_assert_eq!(scalar.name(), "scalar");
        let expected = bits(*scalar);
        for kernel in others {
            prop_assert!(bits(*kernel) == expected, "{}", kernel.name());
        }
    }

    #[test]
    fn a_row_gives_the_same_alone_and_among_others(
        form in forms(), rows in 2_usize..40, share in 1_usize..6, seed: u64,
    ) {
        let case = case(form, rows, 0.01, seed);
        let together = run(fastest(), &case, &case.activations, share);
        for (row, results) in case.activations.chunks(form.k).zip(together.chunks(form.n)) {
            prop_assert_eq!(&run(fastest(), &case, row, 1)[..], results);
        }
    }
}

#[test]
fn long_columns_and_many_rows_cross_all_bands() {
    // More along K than a band, and more rows than the second-level cache holds of one.
    let form = Form { k: 4608, n: 64, bits: 4, block: 32, zero_points: false };
    let case = case(form, 200, 0.01, 3);
    let together = run(fastest(), &case, &case.activations, 4);
    for row in [0, 7, 101, 199] {
        let alone = run(fastest(), &case, &case.activations[row * 4608..][..4608], 1);
        assert_eq!(alone, together[row * 64..][..64]);
    }
}

/// Which tiles multiply depends on the rows, at bounds that differ from set to set.
#[test]
fn every_number_of_rows_gives_the_same_bits_on_any_number_of_threads() {
    // The last bounds are 32 rows, and 8 on Arm, where qemu makes this slow.
    const MOST: usize = if cfg!(target_arch = "x86_64") { 64 } else { 20 };
    let all = Kernel::all();
    let (scalar, others) = all.split_last().unwrap();
    for block in [16, 32, 64, 128, 256] {
        for (bits, zero_points) in [(4, false), (4, true), (8, false), (8, true)] {
            // The last block is mostly beyond K, and the width of no panel divides the groups.
            let form = Form { k: 2 * block + 13, n: 7 * COLUMNS, bits, block, zero_points };
            let case = case(form, MOST, 0.01, 5);
            let expected = run(*scalar, &case, &case.activations, 7);
            for (kernel, rows) in
                others.iter().flat_map(|kernel| (1..=MOST).map(move |rows| (kernel, rows)))
            {
                let share = rows % 4 + 1;
                let own = run_by(
                    *kernel,
                    &case,
                    &case.activations[..rows * form.k],
                    share,
                    rows % 2 == 0,
                );
                let is_same = own.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(
                    is_same && own.len() == rows * form.n,
                    "{}: {form:?}, {rows} rows",
                    kernel.name()
                );
            }
        }
    }
}

/// FNV-1a of the results' bits for each form, with each instruction set. The number is what x86-64 gave, so
/// another architecture that computes otherwise fails here.
#[test]
fn all_architectures_give_the_same_bits() {
    for kernel in Kernel::all() {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (bits, block, zero_points) in [
            (4, 32, false),
            (4, 16, true),
            (4, 128, true),
            (8, 16, false),
            (8, 32, true),
            (8, 256, false),
        ] {
            let form = Form { k: 352, n: 32, bits, block, zero_points };
            let case = case(form, 11, 0.01, 42);
            for rows in [1, 2, 3, 11] {
                for value in run(kernel, &case, &case.activations[..rows * form.k], 2) {
                    hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3);
                }
            }
        }
        assert_eq!(hash, 0xdc62_5c13_b3a9_32e1, "{}: {hash:#x}", kernel.name());
    }
}

#[test]
fn activations_of_zero_give_zero() {
    let form = Form { k: 64, n: 16, bits: 8, block: 32, zero_points: true };
    assert_eq!(run(fastest(), &case(form, 1, 0.01, 8), &[0.0; 64], 1), [0.0; 16]);
}

#[test]
#[should_panic(expected = "done twice")]
fn columns_are_multiplied_once() {
    let form = Form { k: 32, n: 16, bits: 4, block: 32, zero_points: false };
    let lines = vec![Line([0; 64]); form.lines()];
    let mut activations = Activations::default();
    activations.resize(fastest(), &form, 1);
    let mut results = [0.0; 16];
    let results = Results::new(&mut results, 16);
    for _ in 0..2 {
        let operands = Operands { form: &form, lines: &lines, activations: &activations };
        multiply(fastest(), &operands, 0..1, &results);
    }
}
