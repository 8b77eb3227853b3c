#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| phi4d_cli::fuzzing::gbnf(data));
