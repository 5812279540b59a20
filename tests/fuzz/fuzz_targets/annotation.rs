//! [`rolegate_fuzz::annotation`] for any input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| rolegate_fuzz::annotation(input));
