// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"cocoon/mkimage/manifest"
)

// Types of the statement. The last two are names and lead nowhere.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = "https://cocoon.dev/mkimage/v1"
	builderID     = "https://cocoon.dev/mkimage"
)

type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

// resource is a ResourceDescriptor of in-toto.
type resource struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest,omitempty"`
}

type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	ResolvedDependencies []resource     `json:"resolvedDependencies"`
}

type runDetails struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
}

// provenance says from what an image was made, as a statement of SLSA v1 inside
// of one of in-toto. It has no time and no name of a machine: who built the
// image, and vouches for it, is told by the signature.
func provenance(m *manifest.Manifest) ([]byte, error) {
	own, err := m.Encode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(own)
	s := statement{Type: statementType, PredicateType: predicateType, Subject: []resource{
		{Name: manifest.Name, Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}},
	}}
	for _, o := range m.Outputs {
		s.Subject = append(s.Subject, resource{Name: o.File, Digest: map[string]string{"sha256": o.SHA256, "sha384": o.SHA384}})
	}
	d := &s.Predicate.BuildDefinition
	d.BuildType = buildType
	d.ExternalParameters = map[string]any{"profile": m.Profile, "cmdline": m.Cmdline, "source_date_epoch": m.Epoch}
	for _, in := range m.Inputs {
		d.ResolvedDependencies = append(d.ResolvedDependencies, resource{Name: in.File, Digest: map[string]string{"sha256": in.SHA256}})
	}
	s.Predicate.RunDetails.Builder.ID = builderID
	return json.MarshalIndent(s, "", "  ")
}
