// SHA-256 (FIPS 180-4) of a block of memory, as 64 hexadecimal digits.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

inline std::string sha256(const void* data, size_t size) {
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  // Fractional parts of the square roots (state) and cube roots (constants) of the first primes.
  std::array<uint32_t, 64> constants{};
  std::array<uint32_t, 8> state{};
  for (uint32_t prime = 2, i = 0; i < 64; ++prime) {
    bool divides = false;
    for (uint32_t d = 2; d * d <= prime; ++d) divides = divides || prime % d == 0;
    if (divides) continue;
    const auto fraction = [](long double root) { return uint32_t((root - std::floor(root)) * 4294967296.0L); };
    if (i < 8) state[i] = fraction(std::sqrt((long double)prime));
    constants[i++] = fraction(std::cbrt((long double)prime));
  }
  const auto* bytes = static_cast<const uint8_t*>(data);
  std::vector<uint8_t> message(bytes, bytes + size);
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8) message.push_back(uint8_t(uint64_t(size) * 8 >> shift));

  for (size_t block = 0; block < message.size(); block += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      const uint8_t* p = &message[block + size_t(i) * 4];
      w[i] = uint32_t(p[0]) << 24 | uint32_t(p[1]) << 16 | uint32_t(p[2]) << 8 | p[3];
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    auto s = state;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t e = s[4], a = s[0];
      const uint32_t one = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + constants[i] + w[i];
      const uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) state[i] += s[i];
  }
  std::string text;
  for (uint32_t word : state) {
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", word);
    text += digits;
  }
  return text;
}
