import CClipEdge
import Darwin
import Foundation
import XCTest

#if canImport(UIKit)
    import UIKit
#endif

/// Measures a bundle on the phone and attaches `bench.json`, which `clip-edge bench BUNDLE --device iphone:bench.json`
/// reads. Put the bundle folder into the test target under the name `bundle`; run with a release build on a real phone.
final class ClipEdgeBench: XCTestCase {
    let budget = 5.0  // seconds a tower
    let warmUps = 5
    let side = 1024  // pixels of the generated picture

    func testLatency() throws {
        let bundle = try XCTUnwrap(Bundle.module.url(forResource: "bundle", withExtension: nil))
        let manifest = try JSONSerialization.jsonObject(
            with: Data(contentsOf: bundle.appendingPathComponent("manifest.json")))
        let facts = try XCTUnwrap(manifest as? [String: Any])
        let artifacts = try XCTUnwrap(facts["artifacts"] as? [[String: Any]]).filter { $0["target"] as? String == "onnx" }
        let precisions = Array(Set(artifacts.compactMap { $0["precision"] as? String })).sorted()
        let before = state()
        var results: [[String: Any]] = []
        for precision in precisions {
            for threads in [Int32(1), 2] {
                results += try measure(bundle: bundle, precision: precision, threads: threads)
            }
        }
        let report: [String: Any] = [
            "schema": 1, "model": machine(), "system": ProcessInfo.processInfo.operatingSystemVersionString,
            "manifest_sha256": facts["manifest_sha256"] as Any, "before": before, "after": state(), "results": results,
        ]
        let attachment = XCTAttachment(
            data: try JSONSerialization.data(withJSONObject: report), uniformTypeIdentifier: "public.json")
        attachment.name = "bench.json"
        attachment.lifetime = .keepAlways
        add(attachment)
    }

    private func measure(bundle: URL, precision: String, threads: Int32) throws -> [[String: Any]] {
        var options = clip_edge_model_options()
        clip_edge_model_options_init(&options, MemoryLayout.size(ofValue: options))
        options.threads = threads
        var model: OpaquePointer?
        var session: OpaquePointer?
        let opened = precision.withCString { name in
            options.precision = name
            return clip_edge_model_open(bundle.path, &options, &model)
        }
        XCTAssertEqual(opened, CLIP_EDGE_OK, String(cString: clip_edge_last_error()))
        XCTAssertEqual(clip_edge_session_new(model, &session), CLIP_EDGE_OK)
        defer {
            clip_edge_session_free(session)
            clip_edge_model_free(model)
        }
        var info = clip_edge_model_info()
        clip_edge_model_get_info(model, &info, MemoryLayout.size(ofValue: info))
        var out = [Float](repeating: 0, count: Int(info.dim))
        let pixels = (0..<side * side * 4).map { UInt8(truncatingIfNeeded: $0 &* $0 % 251) }
        return try pixels.withUnsafeBufferPointer { buffer in
            var image = clip_edge_image()
            clip_edge_image_init(&image, MemoryLayout.size(ofValue: image))
            image.width = Int32(side)
            image.height = Int32(side)
            image.format = CLIP_EDGE_PIXELS_BGRA
            image.plane.0 = buffer.baseAddress
            image.stride.0 = Int32(side * 4)
            let sentence = strdup("a photo of a red apple on a table")
            defer { free(sentence) }
            var texts = [UnsafePointer<CChar>?(sentence)]
            let see = { clip_edge_embed_images(session, &image, 1, &out, out.count) }
            let read = { clip_edge_embed_texts(session, &texts, nil, 1, &out, out.count) }
            return try [("image", see), ("text", read)].map { tower, query in
                try row(tower: tower, precision: precision, threads: threads, session: session, query: query)
            }
        }
    }

    private func row(
        tower: String, precision: String, threads: Int32, session: OpaquePointer?, query: () -> clip_edge_status
    ) throws -> [String: Any] {
        for _ in 0..<warmUps { XCTAssertEqual(query(), CLIP_EDGE_OK, String(cString: clip_edge_last_error())) }
        var samples: [Double] = []
        var prepare: [Double] = []
        var encode: [Double] = []
        var timings = clip_edge_timings()
        let begin = DispatchTime.now().uptimeNanoseconds
        repeat {
            let start = DispatchTime.now().uptimeNanoseconds
            XCTAssertEqual(query(), CLIP_EDGE_OK)
            samples.append(Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9)
            clip_edge_session_get_timings(session, &timings, MemoryLayout.size(ofValue: timings))
            prepare.append(Double(timings.prepare_ns) * 1e-9)
            encode.append(Double(timings.encode_ns) * 1e-9)
        } while Double(DispatchTime.now().uptimeNanoseconds - begin) * 1e-9 < budget
        return [
            "tower": tower, "precision": precision, "threads": Int(threads), "samples_s": samples,
            "prepare_s": median(prepare), "encode_s": median(encode), "memory_bytes": footprint(),
        ]
    }

    private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    private func state() -> [String: String] {
        let process = ProcessInfo.processInfo
        let names = ["nominal", "fair", "serious", "critical"]
        let heat = process.thermalState.rawValue
        var found = ["low_power_mode": "\(process.isLowPowerModeEnabled)"]
        found["thermal_state"] = names.indices.contains(heat) ? names[heat] : "\(heat)"
        #if canImport(UIKit)
            UIDevice.current.isBatteryMonitoringEnabled = true
            found["battery"] = "\(UIDevice.current.batteryLevel), state \(UIDevice.current.batteryState.rawValue)"
        #endif
        return found
    }

    private func machine() -> String {
        var size = 0
        sysctlbyname("hw.machine", nil, &size, nil, 0)
        var name = [CChar](repeating: 0, count: size)
        sysctlbyname("hw.machine", &name, &size, nil, 0)
        return String(cString: name)
    }

    /// What iOS counts against the app's limit.
    private func footprint() -> Int {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let result = withUnsafeMutablePointer(to: &info) {
            $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return result == KERN_SUCCESS ? Int(info.ledger_phys_footprint_peak) : 0
    }
}
