"""A package: a trained model as a folder that any device can check and run.

What a device needs of it: numpy, the standard library, and openssl for signatures. Nothing in
a package is code or pickle. docs/package.md describes every file.
"""
