// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package decrypt opens encrypted image layers of the OCI image encryption
// scheme (ocicrypt) with keys wrapped for a key provider.
//
// The image's maker and the registry feed it: annotations are bounded and
// parsed before use. The key itself comes from the key unwrapper, which
// releases it only to an attested guest. The plaintext is authenticated by an
// HMAC over the whole ciphertext, so that it must not be used before Reader
// returned io.EOF.
//
// The cipher is AES-256-CTR with HMAC-SHA256 over the ciphertext under the
// same key, as the format demands. It is composed of the standard library's
// parts, since the library of the format links OpenPGP and PKCS#11 and panics
// on a nonce of a wrong length, which the image chooses.
package decrypt

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"cocoon/internal/stage"
)

const (
	// ProviderAnnotation is the layer annotation that holds the wrapped keys:
	// comma-separated base64 of AnnotationPacket documents.
	ProviderAnnotation = "org.opencontainers.image.enc.keys.provider.attestation-agent"

	// OptionsAnnotation is the layer annotation with the public options of
	// the cipher: base64 of JSON.
	OptionsAnnotation = "org.opencontainers.image.enc.pubopts"

	cipherName = "AES_256_CTR_HMAC_SHA256"
	keySize    = 32

	maxAnnotation = 1 << 20
	maxPackets    = 16
	maxPrivate    = 64 << 10
)

var (
	// ErrDecrypt is wrapped by every error of this package. Its text is the
	// one that peers print and that users look for.
	ErrDecrypt = errors.New("Failed to decrypt the image layer, please ensure that the decryption key is placed and correct") //nolint:staticcheck // see above

	// ErrHMAC is returned at the end of a ciphertext that was changed, or
	// that another key encrypted.
	ErrHMAC = errors.New("layer does not match its hmac")
)

// KeyUnwrapper opens a wrapped layer key. annotation is one decoded
// AnnotationPacket (JSON); the result is the private options of the cipher as
// ocicrypt writes them (JSON).
type KeyUnwrapper interface {
	UnwrapKey(ctx context.Context, annotation []byte) ([]byte, error)
}

// Envelope is what a layer's annotations say about its encryption.
type Envelope struct {
	Packets [][]byte // AnnotationPackets, in the order in which they are tried
	HMAC    []byte   // of the ciphertext
	Nonce   []byte   // of the public options, or nil
}

// options are the public or private options of the cipher.
type options struct {
	Cipher        string            `json:"cipher"`
	HMAC          []byte            `json:"hmac"`
	Key           []byte            `json:"symkey"`
	CipherOptions map[string][]byte `json:"cipheroptions"`
}

// ParseAnnotations parses the annotations of an encrypted layer.
func ParseAnnotations(annotations map[string]string) (*Envelope, error) {
	e, err := parseAnnotations(annotations)
	if err != nil {
		return nil, fail(err)
	}
	return e, nil
}

func parseAnnotations(annotations map[string]string) (*Envelope, error) {
	wrapped, ok := annotations[ProviderAnnotation]
	if !ok || wrapped == "" {
		return nil, fmt.Errorf("layer has no annotation %q", ProviderAnnotation)
	}
	if len(wrapped) > maxAnnotation {
		return nil, fmt.Errorf("annotation %q of %d bytes", ProviderAnnotation, len(wrapped))
	}
	e := &Envelope{}
	for part := range strings.SplitSeq(wrapped, ",") {
		packet, err := base64.StdEncoding.DecodeString(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("annotation %q: %w", ProviderAnnotation, err)
		}
		if len(packet) == 0 || len(e.Packets) >= maxPackets {
			return nil, fmt.Errorf("annotation %q: want 1 to %d packets that are not empty", ProviderAnnotation, maxPackets)
		}
		e.Packets = append(e.Packets, packet)
	}
	public, err := base64.StdEncoding.DecodeString(annotations[OptionsAnnotation])
	if err != nil || len(public) > maxPrivate {
		return nil, fmt.Errorf("annotation %q is not base64 of a short document", OptionsAnnotation)
	}
	var o options
	if err := json.Unmarshal(public, &o); err != nil {
		return nil, fmt.Errorf("annotation %q: %w", OptionsAnnotation, err)
	}
	if o.Cipher != cipherName {
		return nil, fmt.Errorf("unknown cipher %q", o.Cipher)
	}
	if len(o.HMAC) != sha256.Size {
		return nil, fmt.Errorf("hmac of %d bytes, want %d", len(o.HMAC), sha256.Size)
	}
	e.HMAC, e.Nonce = o.HMAC, o.CipherOptions["nonce"]
	return e, nil
}

// Unwrap asks keys for the layer key, packet by packet until one opens.
// The error joins what each packet met.
func (e *Envelope) Unwrap(ctx context.Context, keys KeyUnwrapper) (*Key, error) {
	var errs []error
	for _, packet := range e.Packets {
		private, err := keys.UnwrapKey(ctx, packet)
		if err == nil {
			var k *Key
			if k, err = e.parseKey(private); err == nil {
				return k, nil
			}
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fail(fmt.Errorf("unwrap layer key: %w", errors.Join(errs...)))
}

// Key decrypts one layer. It is secret.
type Key struct {
	key, nonce, hmac []byte
}

// parseKey parses private options. Its errors never hold what they hold.
func (e *Envelope) parseKey(private []byte) (*Key, error) {
	var o options
	if len(private) > maxPrivate || json.Unmarshal(private, &o) != nil {
		return nil, errors.New("key unwrapper returned no private options")
	}
	k := &Key{key: o.Key, nonce: e.Nonce, hmac: e.HMAC}
	if k.nonce == nil {
		k.nonce = o.CipherOptions["nonce"]
	}
	if len(k.key) != keySize {
		return nil, fmt.Errorf("layer key of %d bytes, want %d", len(k.key), keySize)
	}
	if len(k.nonce) != aes.BlockSize {
		return nil, fmt.Errorf("nonce of %d bytes, want %d", len(k.nonce), aes.BlockSize)
	}
	return k, nil
}

// Reader returns the plaintext of ciphertext. It returns io.EOF only if the
// HMAC over the whole of ciphertext is right, and else an error that wraps
// ErrHMAC. Errors of ciphertext are passed on.
func (k *Key) Reader(ciphertext io.Reader) (io.Reader, error) {
	block, err := aes.NewCipher(k.key)
	if err != nil {
		return nil, fail(err)
	}
	return &reader{
		src: ciphertext, ctr: cipher.NewCTR(block, k.nonce), mac: hmac.New(sha256.New, k.key), want: k.hmac,
	}, nil
}

type reader struct {
	src  io.Reader
	ctr  cipher.Stream
	mac  hash.Hash
	want []byte
	err  error
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	// A hash never returns an error.
	_, _ = r.mac.Write(p[:n])
	r.ctr.XORKeyStream(p[:n], p[:n])
	if errors.Is(err, io.EOF) && !hmac.Equal(r.mac.Sum(nil), r.want) {
		err = fail(ErrHMAC)
	}
	r.err = err
	return n, err
}

// fail marks err as a failed decryption. A stage that the key unwrapper gave
// it stays: it says where the key got stuck.
func fail(err error) error {
	return stage.Wrap(stage.Decrypt, fmt.Errorf("%w: %w", ErrDecrypt, err))
}
