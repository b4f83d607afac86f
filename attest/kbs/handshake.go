// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"cocoon/internal/stage"
)

const (
	protocolVersion = "0.4.0"
	sessionCookie   = "kbs-session-id"
	maxCookies      = 16
	maxCookieBytes  = 4096
)

type authRequest struct {
	Version string          `json:"version"`
	TEE     string          `json:"tee"`
	Extra   authExtraParams `json:"extra-params"`
}

type authExtraParams struct {
	HashAlgorithms []string `json:"supported-hash-algorithms"`
}

type attestRequest struct {
	InitData    *initData   `json:"init-data"`
	RuntimeData runtimeData `json:"runtime-data"`
	TEEEvidence teeEvidence `json:"tee-evidence"`
}

type initData struct {
	Format string `json:"format"`
	Body   string `json:"body"`
}

type teeEvidence struct {
	Primary    json.RawMessage `json:"primary_evidence"`
	Additional string          `json:"additional_evidence"`
}

// attest runs handshakes until one gives a token, a refusal comes or ctx ends.
// The whole handshake is repeated, since its nonce serves once.
func (c *Client) attest(ctx context.Context) (*session, error) {
	var s *session
	err := c.retry.do(ctx, "attest", func(ctx context.Context) error {
		var err error
		s, err = c.handshake(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.cfg.Log.Info("attested to key broker", "broker", c.base.Host, "tee", c.ev.TEE(), "token_expiry", s.expiry)
	return s, nil
}

func (c *Client) handshake(ctx context.Context) (*session, error) {
	key, err := newTEEKey(c.alg)
	if err != nil {
		return nil, stage.Wrap(stage.Evidence, err)
	}
	ch, cookies, err := c.challenge(ctx)
	if err != nil {
		return nil, err
	}
	req, err := c.prove(ctx, ch, key)
	if err != nil {
		return nil, stage.Wrap(stage.Evidence, err)
	}
	a, err := c.exchange(ctx, call{
		method: http.MethodPost, path: "attest", body: req, cookies: cookies, limit: maxAnswer,
	})
	if err != nil {
		return nil, fmt.Errorf("send evidence: %w", attestStage(err))
	}
	jwt, err := parseAttestResponse(a.body)
	if err != nil {
		return nil, stage.Errorf(stage.KBS, "token answer: %w", err)
	}
	s, err := c.newSession(jwt, key)
	if err != nil {
		return nil, err
	}
	if s.cookies = cookies; checkCookies(a.cookies) == nil {
		s.cookies = a.cookies // the broker named the session anew
	}
	return s, nil
}

func (c *Client) newSession(jwt string, key *teeKey) (*session, error) {
	claims, err := parseToken(jwt)
	if err != nil {
		return nil, stage.Errorf(stage.KBS, "token: %w", err)
	}
	now := c.cfg.Now()
	if err := claims.check(now); err != nil {
		return nil, stage.Errorf(stage.KBS, "token: %w", err)
	}
	return &session{jwt: jwt, key: key, minted: now, expiry: claims.expiry}, nil
}

func (c *Client) challenge(ctx context.Context) (challenge, []*http.Cookie, error) {
	body, err := json.Marshal(authRequest{
		Version: protocolVersion,
		TEE:     c.ev.TEE(),
		Extra:   authExtraParams{HashAlgorithms: hashNames()},
	})
	if err != nil {
		return challenge{}, nil, fmt.Errorf("encode request: %w", err)
	}
	a, err := c.exchange(ctx, call{method: http.MethodPost, path: "auth", body: body, limit: maxAnswer})
	if err != nil {
		return challenge{}, nil, fmt.Errorf("ask for a challenge: %w", teeStage(err))
	}
	ch, err := parseChallenge(a.body)
	if err != nil {
		return challenge{}, nil, stage.Errorf(stage.KBS, "challenge: %w", err)
	}
	if err := c.nonces.use(ch.nonce); err != nil {
		return challenge{}, nil, stage.Errorf(stage.KBS, "challenge: %w", err)
	}
	if err := checkCookies(a.cookies); err != nil {
		return challenge{}, nil, stage.Errorf(stage.KBS, "challenge: %w", err)
	}
	return ch, a.cookies, nil
}

// checkCookies requires the protocol's session cookie. Others are sent back
// too, as load balancers route by them. Their expiry is not looked at: they
// live for one handshake, and a guest's clock may be off.
func checkCookies(cookies []*http.Cookie) error {
	if len(cookies) > maxCookies {
		return fmt.Errorf("%d cookies, at most %d are kept", len(cookies), maxCookies)
	}
	found := false
	for _, k := range cookies {
		if len(k.Name)+len(k.Value) > maxCookieBytes {
			return fmt.Errorf("cookie of %d bytes is too large", len(k.Name)+len(k.Value))
		}
		found = found || k.Name == sessionCookie && k.Value != ""
	}
	if !found {
		return fmt.Errorf("no cookie %q came with it", sessionCookie)
	}
	return nil
}

// prove gathers evidence over the nonce and the public key and returns the body
// of the attest request.
func (c *Client) prove(ctx context.Context, ch challenge, key *teeKey) ([]byte, error) {
	rd := runtimeData{Nonce: ch.nonce, PubKey: key.public()}
	additional, err := c.additional(ctx, ch, rd)
	if err != nil {
		return nil, fmt.Errorf("device evidence: %w", err)
	}
	input, err := primaryInput(c.ev.TEE(), ch, boundData{Additional: additional, runtimeData: rd})
	if err != nil {
		return nil, err
	}
	primary, err := c.ev.Evidence(ctx, input)
	if err != nil {
		return nil, fmt.Errorf("%s evidence: %w", c.ev.TEE(), err)
	}
	if !json.Valid(primary) {
		return nil, fmt.Errorf("%s evidence is not JSON", c.ev.TEE())
	}
	req := attestRequest{RuntimeData: rd, TEEEvidence: teeEvidence{Primary: primary, Additional: additional}}
	if len(c.cfg.InitData) > 0 {
		req.InitData = &initData{Format: "toml", Body: string(c.cfg.InitData)}
	}
	return json.Marshal(req)
}

func (c *Client) additional(ctx context.Context, ch challenge, rd runtimeData) (string, error) {
	dev, ok := c.ev.(AdditionalEvidencer)
	if !ok {
		return "", nil
	}
	digest, err := canonicalDigest(ch.hash, rd)
	if err != nil {
		return "", err
	}
	b, err := dev.AdditionalEvidence(ctx, digest)
	if err != nil || len(b) == 0 {
		return "", err
	}
	// The text is bound by digest: it must survive JSON unchanged.
	if text := string(b); json.Valid(b) && strings.ToValidUTF8(text, "") == text {
		return text, nil
	}
	return "", fmt.Errorf("%d bytes are not JSON text", len(b))
}
