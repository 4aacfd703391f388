//! The encoders, flushed so that a reader can always decode what was sent so far.
//!
//! Their settings suit a proxy, which compresses each response once, beside many others. A slow client holds
//! its encoder's memory for long, so windows are small. Measured in isolation on one core (a release build);
//! memory is the maximum, for incompressible input:
//!
//! | coding | 1 MiB of JSON | a script of 341 KiB, three times | time for a MiB | memory |
//! |---|---|---|---|---|
//! | zstd, level 3, window 64 KiB | 149 KB | 125 KB | 2 ms | 0.5 MiB |
//! | gzip, level 6 | 156 KB | 116 KB | 9 ms | 0.4 MiB |
//! | br, quality 3, window 64 KiB | 176 KB | 121 KB | 7 ms | 0.9 MiB |
//!
//! Brotli's reputation comes from content that is compressed once and sent often: quality 4 takes 1.6 MiB for
//! 160 and 118 KB, quality 5 takes 60 ms and 33 MiB for 135 and 112 KB.

use std::io::{self, Write};

use brotli::CompressorWriter;
use counterfoil_policy::content_coding::Coding;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstandardEncoder;
use zstd::zstd_safe::CParameter::{ChainLog, HashLog};

/// zlib's default: higher levels take twice the time for a percent.
const GZIP_LEVEL: u32 = 6;
const BROTLI_QUALITY: u32 = 3;
/// 64 KiB, as a power of two: most responses are smaller, and more distant matches are rare.
const WINDOW_LOG: u32 = 16;
/// The size of Brotli's output buffer.
const BROTLI_BUFFER: usize = 4096;
const ZSTANDARD_LEVEL: i32 = 3;
/// Tables of 128 and 64 KiB. They find as much in a window of 64 KiB as the level's defaults, which are four
/// times as large.
const ZSTANDARD_HASH_LOG: u32 = 15;
const ZSTANDARD_CHAIN_LOG: u32 = 14;

/// The encoder of one response.
pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstandard(ZstandardEncoder<'static, Vec<u8>>),
}

impl Encoder {
    /// # Errors
    /// The codec can't be set up, which only happens if memory is exhausted.
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

    /// Compress a part of the response; the output may be empty.
    ///
    /// # Errors
    /// The codec failed: the response must be broken off.
    pub fn write(&mut self, part: &[u8]) -> io::Result<Vec<u8>> {
        self.writer().write_all(part)?;
        Ok(self.take())
    }

    /// Flush the encoder, so that the reader can decode all input so far.
    ///
    /// # Errors
    /// As for `write`.
    pub fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.writer().flush()?;
        Ok(self.take())
    }

    /// The end of the encoded data; without it a reader detects truncation.
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
