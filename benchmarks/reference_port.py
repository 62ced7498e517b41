"""A plain port of the reference generator's algorithm, one image after another; the yardstick of `corruptions.py`.

It does what the published generators do, with the libraries that they use (scikit-image, SciPy, OpenCV, Pillow), image
by image and, for glass blur, pixel by pixel. Only motion blur differs: ImageMagick is replaced by NumPy slices (the
same sum), with the PNG round trip through memory kept. Parameters come from our tables, which golden tests hold to the
reference's output.
"""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import skimage.color
import skimage.util
from PIL import Image
from scipy import ndimage
from skimage.filters import gaussian

from edgesafe.corruptions import tables
from edgesafe.corruptions.frost import PHOTOGRAPHS


class Port:
    """All 15 corruptions for one profile and image size; random numbers from numpy's global generator, as there."""

    def __init__(self, profile, side, frost_directory):
        self.profile, self.side, self.frost_directory = tables.Profile(profile), side, frost_directory

    def __call__(self, image, name, severity):
        return np.uint8(getattr(self, name)(Image.fromarray(image), severity))

    def one(self, name, severity):
        return tables.value(name, self.profile, severity)

    def gaussian_noise(self, x, severity):
        x = np.array(x) / 255.0
        return np.clip(x + np.random.normal(size=x.shape, scale=self.one("gaussian_noise", severity)), 0, 1) * 255

    def shot_noise(self, x, severity):
        photons = self.one("shot_noise", severity)
        return np.clip(np.random.poisson(np.array(x) / 255.0 * photons) / photons, 0, 1) * 255

    def impulse_noise(self, x, severity):
        noisy = skimage.util.random_noise(np.array(x) / 255.0, mode="s&p", amount=self.one("impulse_noise", severity))
        return np.clip(noisy, 0, 1) * 255

    def defocus_blur(self, x, severity):
        radius, alias = tables.defocus_parameters(self.profile, severity)
        line = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
        size = (3, 3) if radius <= 8 else (5, 5)
        columns, rows = np.meshgrid(line, line)
        disk = np.array(columns**2 + rows**2 <= radius**2, dtype=np.float32)
        kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=size, sigmaX=alias)
        x = np.array(x) / 255.0
        channels = [cv2.filter2D(x[:, :, c], -1, kernel) for c in range(3)]
        return np.clip(np.array(channels).transpose(1, 2, 0), 0, 1) * 255

    def glass_blur(self, x, severity):
        p = tables.glass_parameters(self.profile, severity, 1.0)
        x = np.uint8(gaussian(np.array(x) / 255.0, sigma=p.sigma, channel_axis=-1) * 255)
        for _ in range(p.iterations):
            for row in range(self.side - p.delta, p.delta, -1):
                for column in range(self.side - p.delta, p.delta, -1):
                    dx, dy = np.random.randint(-p.delta, p.delta, size=(2,))
                    there = row + dy, column + dx
                    x[row, column], x[there] = x[there], x[row, column]
        return np.clip(gaussian(x / 255.0, sigma=p.sigma, channel_axis=-1), 0, 1) * 255

    @staticmethod
    def _line(pixels, radius, sigma, degrees):
        """ImageMagick's MotionBlurImage between two PNG files in memory."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        pixels = np.asarray(Image.open(buffer)).astype(np.float64)
        width = 2 * math.ceil(radius) + 1
        weights = np.exp(-(np.arange(width) ** 2) / (2.0 * sigma * sigma))
        weights /= weights.sum()
        angle, (high, wide) = math.radians(degrees), pixels.shape[:2]
        total = np.zeros_like(pixels)
        for i, weight in enumerate(weights):
            dx, dy = math.ceil(i * math.cos(angle) - 0.5), math.ceil(i * math.sin(angle) - 0.5)
            rows = np.clip(np.arange(high) + dy, 0, high - 1)
            columns = np.clip(np.arange(wide) + dx, 0, wide - 1)
            total += weight * pixels[rows][:, columns]
        buffer = io.BytesIO()
        Image.fromarray(total.astype(np.uint8)).save(buffer, format="PNG")
        return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)

    def motion_blur(self, x, severity):
        radius, sigma = tables.motion_parameters(self.profile, severity, 1.0)
        return self._line(np.array(x), radius, sigma, np.random.uniform(-45, 45))[..., [2, 1, 0]]

    @staticmethod
    def _zoom(image, factor):
        size = image.shape[0]
        crop = math.ceil(size / factor)
        top = (size - crop) // 2
        large = ndimage.zoom(image[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
        trim = (large.shape[0] - size) // 2
        return large[trim : trim + size, trim : trim + size]

    def zoom_blur(self, x, severity):
        x = (np.array(x) / 255.0).astype(np.float32)
        factors = tables.zoom_factors(self.profile, severity)
        total = np.zeros_like(x)
        for factor in factors:
            total += self._zoom(x, factor)
        return np.clip((x + total) / (len(factors) + 1), 0, 1) * 255

    def snow(self, x, severity):
        p = tables.snow_parameters(self.profile, severity, 1.0)
        x = np.array(x, dtype=np.float32) / 255.0
        layer = np.random.normal(size=x.shape[:2], loc=p.loc, scale=p.scale)
        layer = self._zoom(layer[..., None], p.zoom)
        layer[layer < p.threshold] = 0
        layer = (np.clip(layer.squeeze(), 0, 1) * 255).astype(np.uint8)
        layer = self._line(layer, p.radius, p.sigma, np.random.uniform(-135, -45))[..., None] / 255.0
        grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
        x = p.mix * x + (1 - p.mix) * np.maximum(x, grey * 1.5 + 0.5)
        return np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255

    def frost(self, x, severity):
        a, b = (hundredths / 100 for hundredths in tables.frost_parameters(self.profile, severity))
        ice = cv2.imread(str(self.frost_directory / PHOTOGRAPHS[np.random.randint(5)]))
        reduction = {32: 0.2, 64: 0.3, 224: 1.0}[self.side]
        if reduction < 1:
            ice = cv2.resize(ice, (0, 0), fx=reduction, fy=reduction)
        top = np.random.randint(0, ice.shape[0] - self.side)
        left = np.random.randint(0, ice.shape[1] - self.side)
        ice = ice[top : top + self.side, left : left + self.side][..., [2, 1, 0]]
        return np.clip(a * np.array(x) + b * ice, 0, 255)

    @staticmethod
    def _plasma(side, decay):
        area = np.zeros((side, side))
        step, size = side, 100.0

        def shaken(array):
            return array / 4 + size * np.random.uniform(-size, size, array.shape)

        while step >= 2:
            half = step // 2
            corner = area[0:side:step, 0:side:step]
            square = corner + np.roll(corner, -1, axis=0)
            square += np.roll(square, -1, axis=1)
            area[half:side:step, half:side:step] = shaken(square)
            middle = area[half:side:step, half:side:step]
            sides = middle + np.roll(middle, 1, axis=0) + corner + np.roll(corner, -1, axis=1)
            area[0:side:step, half:side:step] = shaken(sides)
            sides = middle + np.roll(middle, 1, axis=1) + corner + np.roll(corner, -1, axis=0)
            area[half:side:step, 0:side:step] = shaken(sides)
            step, size = half, size / decay
        area -= area.min()
        return area / area.max()

    def fog(self, x, severity):
        c, decay = tables.pair("fog", self.profile, severity)
        x = np.array(x) / 255.0
        top = x.max()
        x += c * self._plasma({32: 32, 64: 64, 224: 256}[self.side], decay)[: self.side, : self.side, None]
        return np.clip(x * top / (top + c), 0, 1) * 255

    def brightness(self, x, severity):
        x = skimage.color.rgb2hsv(np.array(x) / 255.0)
        x[:, :, 2] = np.clip(x[:, :, 2] + self.one("brightness", severity), 0, 1)
        return np.clip(skimage.color.hsv2rgb(x), 0, 1) * 255

    def contrast(self, x, severity):
        x = np.array(x) / 255.0
        mean = np.mean(x, axis=(0, 1), keepdims=True)
        return np.clip((x - mean) * self.one("contrast", severity) + mean, 0, 1) * 255

    def elastic_transform(self, x, severity):
        alpha, sigma, affine = tables.elastic_parameters(self.profile, severity, 1.0)
        x = np.array(x, dtype=np.float32) / 255.0
        centre, half = np.float32(x.shape[:2]) // 2, min(x.shape[:2]) // 3
        here = np.float32([centre + half, [centre[0] + half, centre[1] - half], centre - half])
        there = here + np.random.uniform(-affine, affine, size=here.shape).astype(np.float32)
        turn = cv2.getAffineTransform(here, there)
        x = cv2.warpAffine(x, turn, x.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        dx, dy = (
            (gaussian(np.random.uniform(-1, 1, size=x.shape[:2]), sigma, mode="reflect", truncate=3) * alpha).astype(
                np.float32
            )[..., None]
            for _ in range(2)
        )
        columns, rows, channel = np.meshgrid(*(np.arange(x.shape[axis]) for axis in (1, 0, 2)))
        places = [np.reshape(a, (-1, 1)) for a in (rows + dy, columns + dx, channel)]
        return np.clip(ndimage.map_coordinates(x, places, order=1, mode="reflect").reshape(x.shape), 0, 1) * 255

    def pixelate(self, x, severity):
        small = int(self.side * self.one("pixelate", severity))
        x = x.resize((small, small), Image.Resampling.BOX)
        return np.asarray(x.resize((self.side, self.side), Image.Resampling.BOX))

    def jpeg_compression(self, x, severity):
        buffer = io.BytesIO()
        x.save(buffer, "JPEG", quality=int(self.one("jpeg_compression", severity)))
        return np.asarray(Image.open(buffer))
