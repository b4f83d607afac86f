// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed" // the policy of the demo's pod
	"fmt"
	"os"
	"path/filepath"

	"cocoon/test/pki"
	"cocoon/test/volume"
)

// policyText is the owner's policy; %q stands for the image it allows.
//
//go:embed policy.rego
var policyText string

// writeUserData makes the volume that a cloud provider would attach.
func (s *story) writeUserData(ctx context.Context, name string, server pki.KeyPair) (string, error) {
	doc, err := s.initdata()
	if err != nil {
		return "", err
	}
	pod := volume.Pod{Name: "demo", Cert: server.Cert, Key: server.Key, ClientCA: s.client.Cert, Initdata: doc}
	return pod.UserData(ctx, filepath.Join(s.dir, name))
}

// initdata is the owner's part: whom to trust, and what the host may do.
func (s *story) initdata() (string, error) {
	brokerCA, err := os.ReadFile(filepath.Join(s.broker.dir, "ca.crt"))
	if err != nil {
		return "", err
	}
	url := fmt.Sprintf("https://%s:%s", guestHost, s.broker.port())
	return fmt.Sprintf(`algorithm = "sha256"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = %[1]q
cert = """
%[2]s"""
'''
"cdh.toml" = '''
[kbc]
name = "cc_kbc"
url = %[1]q
kbs_cert = """
%[2]s"""
[image]
extra_root_certificates = ["""
%[3]s"""]
'''
"policy.rego" = '''
%[4]s'''
`, url, brokerCA, s.ca.PEM, fmt.Sprintf(policyText, s.image)), nil
}
