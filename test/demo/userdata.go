// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed" // the policy of the demo's pod
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// policyText is the owner's policy; %q stands for the image it allows.
//
//go:embed policy.rego
var policyText string

// writeUserData makes the volume that a cloud provider would attach, in the
// shape in which cloud-api-adaptor fills it.
func (s *story) writeUserData(ctx context.Context, name string, server keyPair) (string, error) {
	apf, err := json.MarshalIndent(map[string]any{
		"pod-namespace": "default", "pod-name": "demo",
		"tls-server-cert": string(server.cert), "tls-server-key": string(server.key), "tls-client-ca": string(s.client.cert),
	}, "", "  ")
	if err != nil {
		return "", err
	}
	doc, err := s.initdata()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#cloud-config\n\nwrite_files:\n")
	for _, f := range []struct{ path, content string }{
		{"/run/peerpod/apf.json", string(apf)}, {"/run/peerpod/initdata", doc},
	} {
		fmt.Fprintf(&b, "  - path: %s\n    content: |\n", f.path)
		for line := range strings.Lines(strings.TrimSpace(f.content)) {
			b.WriteString("      " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	return makeVolume(ctx, filepath.Join(s.dir, name), b.String())
}

// initdata is the owner's part: whom to trust, and what the host may do.
func (s *story) initdata() (string, error) {
	brokerCA, err := os.ReadFile(filepath.Join(s.broker.dir, "ca.crt"))
	if err != nil {
		return "", err
	}
	url := fmt.Sprintf("https://%s:%s", guestHost, s.broker.port())
	toml := fmt.Sprintf(`algorithm = "sha256"
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
`, url, brokerCA, s.ca.pem, fmt.Sprintf(policyText, s.image))
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err = w.Write([]byte(toml))
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(zipped.Bytes()), nil
}

func makeVolume(ctx context.Context, dir, userData string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for name, content := range map[string]string{"user-data": userData, "meta-data": "local-hostname: demo\n", "vendor-data": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	iso := dir + ".iso"
	out, err := exec.CommandContext(ctx, "genisoimage", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-o", iso, dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("genisoimage: %w: %s", err, out)
	}
	return iso, nil
}
