// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/open-policy-agent/opa/v1/ast"
)

const (
	createRule = "CreateContainerRequest"
	pullDriver = "image_guest_pull"
	dataRule   = "policy_data"

	// digestNote is the annotation by which a policy demands a digest.
	digestNote = "io.cocoon.image-digest"
)

// imageNotes are the annotations of a policy's container that name its image.
func imageNotes() []string {
	return []string{"io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"}
}

// imagePin is the image of one container of a generated policy. Its own rules
// let the host name any: they compare which annotations there are and not what
// they say, and do not look at the reference that is pulled.
type imagePin struct {
	known  bool   // the policy's container names an image
	name   string // as normalised
	digest string // "" unless the policy demands one
}

// imagePins are those of a policy's containers, in their order.
type imagePins []imagePin

// policyData is what generated policies say of their containers.
type policyData struct {
	Containers []struct {
		OCI *struct{ Annotations map[string]string } `json:"OCI"`
	} `json:"containers"`
}

// imagePins reads the images of a generated policy's containers, in order. A
// policy of another form has none: its own rules have to name the image.
func (p *program) imagePins(ctx context.Context, l *ledger) (imagePins, error) {
	value, err := p.eval(ctx, l.question(dataRule, ast.NewObject()), &printer{}, nil)
	if errors.Is(err, errUndefined) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadPolicy, dataRule, err)
	}
	x, err := ast.JSON(value)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadPolicy, dataRule, err)
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadPolicy, dataRule, err)
	}
	var data policyData
	if json.Unmarshal(raw, &data) != nil {
		return nil, nil //nolint:nilerr // data of another form, of a policy by hand
	}
	var pins imagePins
	generated := false
	for _, c := range data.Containers {
		var pin imagePin
		if c.OCI != nil {
			generated = true
			for _, note := range imageNotes() {
				if name, ok := c.OCI.Annotations[note]; ok && !pin.known {
					pin = imagePin{known: true, name: normalImage(name), digest: c.OCI.Annotations[digestNote]}
				}
			}
		}
		pins = append(pins, pin)
	}
	if !generated {
		return nil, nil
	}
	return pins, nil
}

// wrongImage returns why the images of an allowed CreateContainer request are
// not those that the policy names, or "". ops tell which of the policy's
// containers it is; a policy without state leaves all of them possible.
func (l *ledger) wrongImage(input ast.Value, ops jsonpatch.Patch) string {
	if l.pins == nil {
		return ""
	}
	req, err := readPull(input)
	if err != nil {
		return err.Error()
	}
	if req.sandbox {
		// It runs the guest's own program. A request whose images say otherwise
		// than its annotations is refused by the agent's checkKind.
		return ""
	}
	pins := l.pins
	if i, ok := chosen(req.id, ops); ok {
		if i < 0 || i >= len(pins) {
			return fmt.Sprintf("the policy has no container %d", i)
		}
		pins = pins[i : i+1]
	}
	for _, source := range req.images {
		if why := pins.refuse(source, req.digest); why != "" {
			return fmt.Sprintf("image %.256q %s", source, why)
		}
	}
	return ""
}

// refuse returns why an image is none of these, or "".
func (pins imagePins) refuse(source, digest string) string {
	why := "is not the one that the policy names"
	for _, p := range pins {
		switch {
		case !p.known || p.name != normalImage(source):
		case p.digest != "" && p.digest != digest:
			why = fmt.Sprintf("has to come with the annotation %s = %.80q", digestNote, p.digest)
		default:
			return ""
		}
	}
	return why
}

// pull is what a request says of images.
type pull struct {
	id      string
	sandbox bool
	images  []string
	digest  string // that its annotation demands of the agent
}

func readPull(input ast.Value) (pull, error) {
	p := pull{id: textAt(input, "container_id"), digest: textAt(input, "OCI", "Annotations", digestNote)}
	p.sandbox = textAt(input, "OCI", "Annotations", "io.kubernetes.cri.container-type") == "sandbox" ||
		textAt(input, "OCI", "Annotations", "io.kubernetes.cri-o.ContainerType") == "sandbox"
	list, err := input.Find(ast.Ref{ast.StringTerm("storages")})
	if err != nil {
		return p, errors.New("the request has no storages")
	}
	storages, ok := list.(*ast.Array)
	if !ok {
		return p, errors.New("the storages of the request are no list")
	}
	storages.Foreach(func(t *ast.Term) {
		if textAt(t.Value, "driver") == pullDriver {
			p.images = append(p.images, textAt(t.Value, "source"))
		}
	})
	return p, nil
}

// textAt returns the string at a path, or "".
func textAt(v ast.Value, path ...string) string {
	ref := make(ast.Ref, len(path))
	for i, name := range path {
		ref[i] = ast.StringTerm(name)
	}
	found, err := v.Find(ref)
	if err != nil {
		return ""
	}
	s, _ := found.(ast.String)
	return string(s)
}

// chosen returns the number that a policy notes for a container in its state.
func chosen(id string, ops jsonpatch.Patch) (int, bool) {
	want := "/pstate/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(id)
	for _, op := range slices.Backward(ops) {
		path, err := op.Path()
		if err != nil || path != want || op.Kind() != "add" {
			continue
		}
		raw := op["value"]
		var i int
		if raw != nil && json.Unmarshal(*raw, &i) == nil {
			return i, true
		}
	}
	return 0, false
}

// normalImage writes a reference as container runtimes do: with its registry,
// "library" for images without a folder, and a tag unless it has a digest.
func normalImage(name string) string {
	name, digest, hasDigest := strings.Cut(name, "@")
	repository, tag := name, ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		repository, tag = name[:i], name[i+1:]
	}
	first, rest, folder := strings.Cut(repository, "/")
	if !folder || !strings.ContainsAny(first, ".:") && first != "localhost" {
		first, rest = "docker.io", repository
	}
	if first == "index.docker.io" {
		first = "docker.io"
	}
	if first == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	switch {
	case hasDigest:
		return first + "/" + rest + "@" + digest
	case tag == "":
		tag = "latest"
	}
	return first + "/" + rest + ":" + tag
}
