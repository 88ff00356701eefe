"""The main job on one screen: emulated OpenRouter, real SDK traffic, books against log, proof and attacks."""
