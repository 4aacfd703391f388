#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| counterfoil_gateway::fuzzing::announcement(bytes));
