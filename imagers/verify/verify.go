// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verify decides whether an image may be used, by the signature
// policy of the pod's owner (policy.json of containers/image).
//
// The policy comes from the owner, through measured initdata or the key
// broker; the reference and the digest come from the host and the registry.
// A policy that says something this package cannot check is an error, never
// an acceptance.
package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"cocoon/internal/stage"
)

var (
	// ErrDenied is returned for an image that the policy refuses. Its text is
	// the one that peers print and that users look for.
	ErrDenied = errors.New("Image policy rejected: Denied by policy") //nolint:staticcheck // see above

	// ErrPolicy is returned for a policy that is malformed or asks for
	// something unknown.
	ErrPolicy = errors.New("invalid image policy file")
)

// maxPolicy bounds the bytes of a policy.
const maxPolicy = 1 << 20

// requirement is one condition of a scope.
type requirement struct {
	Type string `json:"type"`
}

// Policy is a parsed policy. A nil Policy accepts every image, as upstream
// does when none is configured.
type Policy struct {
	fallback []requirement
	scopes   map[string][]requirement // of the transport "docker"
}

// Parse parses a policy.json. The error wraps ErrPolicy and carries the stage
// ImagePolicy.
func Parse(data []byte) (*Policy, error) {
	p, err := parse(data)
	if err != nil {
		return nil, stage.Errorf(stage.ImagePolicy, "%w: %w", ErrPolicy, err)
	}
	return p, nil
}

func parse(data []byte) (*Policy, error) {
	if len(data) > maxPolicy {
		return nil, fmt.Errorf("%d bytes long", len(data))
	}
	var file struct {
		Default    []requirement                       `json:"default"`
		Transports map[string]map[string][]requirement `json:"transports"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	p := &Policy{fallback: file.Default, scopes: file.Transports["docker"]}
	if err := check(p.fallback); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	for scope, list := range p.scopes {
		if err := check(list); err != nil {
			return nil, fmt.Errorf("scope %q: %w", scope, err)
		}
	}
	return p, nil
}

// check refuses lists that are empty or hold a type that is not implemented:
// passing over a requirement would accept what the owner did not.
func check(list []requirement) error {
	if len(list) == 0 {
		return errors.New("no requirement")
	}
	for _, r := range list {
		switch r.Type {
		case "insecureAcceptAnything", "reject":
		default:
			return fmt.Errorf("requirement type %q is not supported", r.Type)
		}
	}
	return nil
}

// Check applies the policy to an image. The error wraps ErrDenied and carries
// the stage ImagePolicy.
func (p *Policy) Check(ref name.Reference) error {
	if p == nil {
		return nil
	}
	scope, list := p.lookup(ref)
	for _, r := range list {
		if r.Type != "insecureAcceptAnything" {
			return stage.Errorf(stage.ImagePolicy, "%w: %q: scope %q requires %q", ErrDenied, ref.Name(), scope, r.Type)
		}
	}
	return nil
}

// lookup returns the requirements of the most specific scope.
func (p *Policy) lookup(ref name.Reference) (string, []requirement) {
	for _, scope := range scopesOf(ref) {
		if list, ok := p.scopes[scope]; ok {
			return scope, list
		}
	}
	return "default", p.fallback
}

// scopesOf lists the scopes of a reference, the most specific first: the
// whole reference, the repository, its parents, the host, wildcards for the
// host's parent domains, and "" for all.
func scopesOf(ref name.Reference) []string {
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = strings.TrimPrefix(host, "index.")
	}
	repo := host + "/" + ref.Context().RepositoryStr()
	sep := ":"
	if strings.Contains(ref.Identifier(), ":") {
		sep = "@"
	}
	scopes := []string{repo + sep + ref.Identifier()}
	for repo != "" {
		scopes = append(scopes, repo)
		i := strings.LastIndexByte(repo, '/')
		repo = repo[:max(i, 0)]
	}
	domain, _, _ := strings.Cut(host, ":")
	for {
		_, parent, ok := strings.Cut(domain, ".")
		if !ok {
			return append(scopes, "")
		}
		scopes, domain = append(scopes, "*."+parent), parent
	}
}
