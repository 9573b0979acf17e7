"""Proof that training did what it claims: the certificate, and the check of padding."""
