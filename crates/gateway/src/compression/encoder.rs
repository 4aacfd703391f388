//! The encoders, flushed so that a reader can always decode what was sent so far.
//!
//! Each is set for a proxy that compresses what it sees once, beside many others. What one holds is
//! what a client that reads slowly holds, so windows are small. Measured by itself on one core here (a
//! release build), and the most that it held meanwhile, which was when nothing got smaller:
//!
//! | coding | 1 MiB of JSON | a script of 341 KiB, three times | time for a MiB | memory |
//! |---|---|---|---|---|
//! | zstd, level 3, window 64 KiB | 149 KB | 125 KB | 2 ms | 0.5 MiB |
//! | gzip, level 6 | 156 KB | 116 KB | 9 ms | 0.4 MiB |
//! | br, quality 3, window 64 KiB | 176 KB | 121 KB | 7 ms | 0.9 MiB |
//!
//! Brotli's name comes from what is compressed once and sent often: at quality 4 it holds 1.6 MiB for
//! 160 and 118 KB, at 5 it takes 60 ms and holds 33 MiB for 135 and 112 KB.

use std::io::{self, Write};

use brotli::CompressorWriter;
use counterfoil_policy::content_coding::Coding;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstandardEncoder;
use zstd::zstd_safe::CParameter::{ChainLog, HashLog};

/// zlib's own middle: higher levels take twice the time for a percent.
const GZIP_LEVEL: u32 = 6;
const BROTLI_QUALITY: u32 = 3;
/// 64 KiB, as powers of two: most answers are smaller, and matches further back are few.
const WINDOW_LOG: u32 = 16;
/// What Brotli collects before it hands it on.
const BROTLI_BUFFER: usize = 4096;
const ZSTANDARD_LEVEL: i32 = 3;
/// Tables of 128 and 64 KiB, which find as much in a window of 64 KiB as those of the level, which
/// are four times that.
const ZSTANDARD_HASH_LOG: u32 = 15;
const ZSTANDARD_CHAIN_LOG: u32 = 14;

/// One answer on its way into a coding.
pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstandard(ZstandardEncoder<'static, Vec<u8>>),
}

impl Encoder {
    /// # Errors
    /// The codec can't be set up, for which it would have to have no memory.
    pub fn new(coding: Coding) -> io::Result<Self> {
        let out = Vec::new();
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(out, Compression::new(GZIP_LEVEL))),
            Coding::Brotli => {
                Self::Brotli(Box::new(CompressorWriter::new(out, BROTLI_BUFFER, BROTLI_QUALITY, WINDOW_LOG)))
            }
            Coding::Zstandard => {
                let mut encoder = ZstandardEncoder::new(out, ZSTANDARD_LEVEL)?;
                encoder.window_log(WINDOW_LOG)?;
                encoder.set_parameter(HashLog(ZSTANDARD_HASH_LOG))?;
                encoder.set_parameter(ChainLog(ZSTANDARD_CHAIN_LOG))?;
                Self::Zstandard(encoder)
            }
        })
    }

    /// Take in a part of the answer; what comes out, which may be nothing yet.
    ///
    /// # Errors
    /// The codec failed: the answer has no end.
    pub fn write(&mut self, part: &[u8]) -> io::Result<Vec<u8>> {
        self.writer().write_all(part)?;
        Ok(self.take())
    }

    /// What is still held back of all that was taken in, so that the other side can read it now.
    ///
    /// # Errors
    /// As for `write`.
    pub fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.writer().flush()?;
        Ok(self.take())
    }

    /// The end, without which a reader knows that something is missing.
    ///
    /// # Errors
    /// As for `write`.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstandard(encoder) => encoder.finish(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Gzip(encoder) => encoder,
            Self::Brotli(encoder) => encoder,
            Self::Zstandard(encoder) => encoder,
        }
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstandard(encoder) => encoder.get_mut(),
        })
    }
}
