// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snp makes the evidence of AMD SEV-SNP guests and knows the form of
// their attestation report, which verifiers share.
//
// The report follows AMD's "SEV Secure Nested Paging Firmware ABI" (document
// 56860), the table of certificates the "Guest Hypervisor Communication Block"
// (56421), the JSON the attestation agent of Confidential Containers.
//
// Trust: the report is signed by the processor. It comes through the host, as
// do the certificates beside it, so both may be anything until a verifier
// accepts them. What is checked here only tells an owner early.
package snp
