// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"cocoon/internal/stage"
)

// imageDigestNote is the annotation by which an owner demands a manifest digest
// of an image that the pod names by tag. The policy has to pin it: package policy
// does for generated ones.
const imageDigestNote = "io.cocoon.image-digest"

// imageNameNotes are the annotations in which containerd and CRI-O put the name
// of a container's image. The reference that the guest pulls stands in another
// place of the same request. Both are the host's word; that they are what the
// policy names is for package policy to say.
func imageNameNotes() []string {
	return []string{"io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"}
}

// checkImageName refuses a request whose annotation names another image than
// the one that is to be pulled.
func checkImageName(source string, annotations map[string]string) error {
	for _, note := range imageNameNotes() {
		if name, ok := annotations[note]; ok && name != source {
			err := fmt.Errorf("image %.256q is to be pulled, but annotation %s names %.256q: %w", source, note, name, ErrInvalid)
			return stage.Wrap(stage.Policy, err)
		}
	}
	return nil
}

// checkImageDigest refuses an image whose manifest is not the one that the
// annotation demands. digest is "" if no image was pulled.
func checkImageDigest(digest string, annotations map[string]string) error {
	want, ok := annotations[imageDigestNote]
	if !ok || want == digest {
		return nil
	}
	if digest == "" {
		digest = "no image"
	}
	err := fmt.Errorf("annotation %s demands %.128q, but %s was pulled: %w", imageDigestNote, want, digest, ErrInvalid)
	return stage.Wrap(stage.Policy, err)
}
