//! Bindings of `counterfoil-acme`. Errors are raised as the built-in exceptions that
//! `counterfoil.gateway.acme.authority` distinguishes.

use std::time::Duration;

use counterfoil_acme::{Client, Error, External};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;

#[pyclass(frozen)]
pub struct Acme(Client);

#[pymethods]
impl Acme {
    #[new]
    fn new(py: Python<'_>, credentials: &str, ca_file: Option<&str>, timeout: f64) -> PyResult<Self> {
        py.detach(|| Client::open(credentials, ca_file, seconds(timeout))).map(Self).map_err(raised)
    }

    #[staticmethod]
    fn register(
        py: Python<'_>,
        directory: &str,
        ca_file: Option<&str>,
        email: Option<&str>,
        external: Option<(String, Vec<u8>)>,
        timeout: f64,
    ) -> PyResult<String> {
        let external = external.map(|(key_id, key)| External { key_id, key });
        py.detach(|| Client::register(directory, ca_file, email, external.as_ref(), seconds(timeout)))
            .map_err(raised)
    }

    fn order(
        &self,
        py: Python<'_>,
        name: &str,
        profile: Option<&str>,
        replaces: Option<&str>,
        timeout: f64,
    ) -> PyResult<String> {
        py.detach(|| self.0.order(name, profile, replaces, seconds(timeout))).map_err(raised)
    }

    fn challenge(&self, py: Python<'_>, order: &str, timeout: f64) -> PyResult<Option<Vec<u8>>> {
        py.detach(|| self.0.challenge(order, seconds(timeout))).map_err(raised)
    }

    fn prove(&self, py: Python<'_>, order: &str, timeout: f64) -> PyResult<()> {
        py.detach(|| self.0.prove(order, seconds(timeout))).map_err(raised)
    }

    fn certificate(&self, py: Python<'_>, order: &str, csr: &[u8], timeout: f64) -> PyResult<String> {
        py.detach(|| self.0.certificate(order, csr, seconds(timeout))).map_err(raised)
    }

    /// The start and end of the window, and the number of seconds until the next query.
    fn renewal(&self, py: Python<'_>, certificate: &str, timeout: f64) -> PyResult<Option<(f64, f64, f64)>> {
        let found = py.detach(|| self.0.renewal(certificate, seconds(timeout))).map_err(raised)?;
        Ok(found.map(|window| (window.start, window.end, window.ask_again_seconds)))
    }
}

fn seconds(timeout: f64) -> Duration {
    Duration::from_secs_f64(timeout.clamp(0.0, 3600.0))
}

fn raised(error: Error) -> PyErr {
    match error {
        Error::Unavailable(message) => PyConnectionError::new_err(message),
        Error::Refused { kind, detail } => PyRuntimeError::new_err((detail, kind)),
    }
}
