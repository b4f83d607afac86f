// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kbs is the guest's client of a key broker service: it attests the
// guest and fetches secrets, by the request-challenge-attestation-response
// protocol (RCAR) version 0.4.0 of Confidential Containers.
//
// One attestation makes one TEE key pair. Its public half and the broker's
// nonce are hashed into the evidence, so that the token which the broker
// gives, and every secret encrypted to that key, belong to this guest. Token
// and key are kept together until shortly before the token expires; concurrent
// callers share one attestation.
//
// Trust: the broker is named by measured configuration and reached over TLS,
// but the network and every peer that answers are the host's to choose until
// the certificate is verified. Answers are bounded, parsed strictly and refused
// when out of protocol. Secrets are accepted only encrypted to the TEE key.
// Environment variables, proxies among them, change nothing here, because the
// host can set some of them through the kernel command line.
//
// Errors carry a stage of package internal/stage; an answer that the broker
// gave is kept as a *Problem.
package kbs
