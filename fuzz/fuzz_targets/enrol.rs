//! What a machine says that nobody has let in: its request, the proof of its TPM, and the certificate request (PEM) in it.
#![no_main]

use bramble_model::agent::{EnrolRequest, Keeps, Proof};
use libfuzzer_sys::fuzz_target;
use rcgen::CertificateSigningRequestParams;

fuzz_target!(|text: &str| {
    let _ = serde_json::from_str::<Proof>(text);
    let request = serde_json::from_str::<EnrolRequest>(text);
    if let Ok(EnrolRequest { keeps: Keeps::Tpm { endorsement, key }, .. }) = &request {
        assert!(endorsement.0.len() + key.0.len() <= text.len());
    }
    // The same text as a request by itself, or the one that is in it.
    let csr = request.map_or_else(|_| text.to_owned(), |request| request.csr);
    let _ = CertificateSigningRequestParams::from_pem(&csr);
    if let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(csr.as_bytes()) {
        use x509_parser::prelude::FromDer;
        let _ = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents);
    }
});
