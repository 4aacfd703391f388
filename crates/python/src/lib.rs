//! Python bindings of the native core, without logic of their own. The GIL is released around every call that
//! computes or blocks.

mod acme;
mod etcd;

use std::collections::HashMap;
use std::time::Duration;

use counterfoil_gateway::{Error, Gateway};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// A request makes some twenty small allocations, which are cheaper with mimalloc than with the system's
/// allocator. Huge pages are off (`no_thp`): the memory of idle connections is scattered, and a huge page stays
/// resident as a whole.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The data plane. It serves on threads of its own that never touch the interpreter.
#[pyclass(frozen)]
struct DataPlane(Gateway);

#[pymethods]
impl DataPlane {
    #[new]
    fn new(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        py.detach(|| Gateway::start(config_json)).map(Self).map_err(raised)
    }

    fn open(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.open()).map_err(raised)
    }

    fn unknown_services(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.0.unknown_services())
    }

    fn addresses(&self) -> (String, String) {
        self.0.addresses()
    }

    #[staticmethod]
    fn check(py: Python<'_>, config_json: &str) -> PyResult<()> {
        py.detach(|| Gateway::check(config_json)).map_err(raised)
    }

    fn reload(
        &self,
        py: Python<'_>,
        config_json: &str,
        instances: HashMap<String, Vec<(String, String)>>,
    ) -> PyResult<u64> {
        py.detach(|| self.0.reload(config_json, &instances)).map_err(raised)
    }

    fn set_endpoints(&self, py: Python<'_>, service: &str, endpoints: Vec<(String, String)>) -> PyResult<()> {
        py.detach(|| self.0.set_endpoints(service, endpoints)).map_err(raised)
    }

    fn purge_json(&self, py: Python<'_>, document: &str) -> PyResult<String> {
        py.detach(|| self.0.purge(document)).map_err(raised)
    }

    fn weigh_json(&self, py: Python<'_>, document: &str) -> PyResult<()> {
        py.detach(|| self.0.weigh(document)).map_err(raised)
    }

    fn hold_breaker(&self, py: Python<'_>, service: &str, instance: &str, mode: &str) -> PyResult<()> {
        py.detach(|| self.0.hold_breaker(service, instance, mode)).map_err(raised)
    }

    fn certify_json(&self, py: Python<'_>, document: &str) -> PyResult<()> {
        py.detach(|| self.0.certify(document)).map_err(raised)
    }

    fn state_json(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.state_json())
    }

    fn drain(&self, py: Python<'_>, timeout_seconds: f64) {
        py.detach(|| self.0.drain(Duration::from_secs_f64(timeout_seconds.clamp(0.0, 3600.0))));
    }
}

fn raised(error: Error) -> PyErr {
    match error {
        Error::Config(_) => PyValueError::new_err(error.to_string()),
        Error::Setting { detail, setting } => PyValueError::new_err((detail, setting)),
        Error::Io { .. } => PyRuntimeError::new_err(error.to_string()),
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DataPlane>()?;
    module.add_class::<acme::Acme>()?;
    module.add_class::<etcd::Etcd>()?;
    module.add_class::<etcd::EtcdWatch>()
}
